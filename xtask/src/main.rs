//! Project automation: `cargo xtask help` lists the commands.
//!
//! Depends on none of the product's packages, so it still runs when the product does not compile.
// A command line tool for developers: the terminal is its output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod ci;
mod deny;
mod setup;
mod shell;
mod tidy;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test                 setup, then ci: the one command on a fresh Debian machine with Rust
  ci                   formatting, house rules, dependencies, lints, documentation, tests
  tidy [--bless]       house rules over the sources; --bless renews the digests in docs/FORMAT.md
  deny                 licences, bans and sources of the dependencies, as deny.toml says
  setup                install the programs that the tests use
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(shell::exit_code_of(&error))
        }
    }
}

fn dispatch(words: &[&str]) -> Result<()> {
    match words {
        ["test"] => setup::run().and_then(|()| ci::run()),
        ["ci"] => ci::run(),
        ["tidy"] => tidy::run(tidy::Mode::Check),
        ["tidy", "--bless"] => tidy::run(tidy::Mode::Bless),
        ["deny"] => deny::run(),
        ["setup"] => setup::run(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown command `{}`; `cargo xtask help` lists the commands", words.join(" ")),
    }
}
