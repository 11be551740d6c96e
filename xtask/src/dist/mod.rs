//! `cargo xtask dist`: what people install. A Debian package, a tarball, the list of what the program is made of,
//! checksums, and a signature over them; `docs/RELEASE.md` says how a release is made of it.
//!
//! The same commit gives the same bytes, wherever the clone lies: nothing here takes a time, an order or an owner from the
//! machine.

mod build;
mod chroot;
mod deb;
mod licences;
mod release;
mod sbom;
mod stage;

use crate::setup;
use crate::shell;
use anyhow::{Context, Result, bail, ensure};
use release::Release;
use stage::Stage;
use std::fs;
use std::path::{Path, PathBuf};

const USAGE: &str = "usage: cargo xtask dist [--key FILE] [--binary FILE] [--try]";
/// What a signature is good for: a log's never passes for a release's.
const NAMESPACE: &str = "sancerre-release";
const CHECKSUMS: &str = "SHA256SUMS";

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// The private SSH key that signs; without it nothing is signed.
    key: Option<PathBuf>,
    /// A program that is there already, instead of one that is built: to work on the packages.
    binary: Option<PathBuf>,
    /// Whether the package is installed, upgraded and removed in fresh systems afterwards.
    is_tried: bool,
}

/// Makes everything below `target/packages`.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let options = parse(words)?;
    setup::install(setup::DIST_TOOLS)?;
    let release = Release::of_head()?;
    match &options.binary {
        Some(path) => eprintln!("dist: packs {}: good for trying, not for giving away", path.display()),
        None => ensure!(release.is_clean, "dist: there are changes that are in no commit; commit them first"),
    }
    let program = options.binary.clone().map_or_else(|| build::program(&release), Ok)?;
    let program = fs::canonicalize(&program).with_context(|| format!("cannot find {}", program.display()))?;
    if options.binary.is_none() {
        build::judge(&program)?;
    }
    let out = shell::target_folder().join("packages");
    let stage = Stage::new(&program, &release)?;
    let names = pack(&stage, &program, &release, &out)?;
    checksums(&out, &names)?;
    sign(&out, options.key.as_deref())?;
    report(&out, &names)?;
    if options.is_tried {
        chroot::run(&stage, &program, &release)?;
    }
    Ok(())
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut file = || words.next().map(std::path::absolute).context(USAGE);
        match *word {
            "--key" => options.key = Some(file()??),
            "--binary" => options.binary = Some(file()??),
            "--try" => options.is_tried = true,
            other => bail!("dist: `{other}` is not known; {USAGE}"),
        }
    }
    Ok(options)
}

/// Writes the package, the tarball and the list of components; hands back their names.
fn pack(stage: &Stage, program: &Path, release: &Release, out: &Path) -> Result<Vec<String>> {
    let _ = fs::remove_dir_all(out);
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let deb = deb::file_name(&release.deb_version());
    deb::build(stage, program, release, &release.deb_version(), &out.join(&deb))?;
    let tarball = format!("sancerre-{}-x86_64-linux.tar.gz", release.version);
    stage.tarball(release, &out.join(&tarball))?;
    let components = format!("sancerre-{}.cdx.json", release.version);
    fs::write(out.join(&components), sbom::text(release)?)?;
    Ok(vec![deb, tarball, components])
}

fn checksums(out: &Path, names: &[String]) -> Result<()> {
    let mut command = shell::command("sha256sum", &["--"]);
    command.args(names).current_dir(out);
    fs::write(out.join(CHECKSUMS), shell::output(command)?)?;
    Ok(())
}

/// Signs the checksums, as `ssh-keygen -Y verify -n sancerre-release` checks.
fn sign(out: &Path, key: Option<&Path>) -> Result<()> {
    let Some(key) = key else {
        eprintln!("\nNOT SIGNED: no --key was given. Whoever gets these files cannot tell who made them.\n");
        return Ok(());
    };
    let key = key.to_str().context("the path of the key is no UTF-8")?;
    let mut command = shell::command("ssh-keygen", &["-Y", "sign", "-n", NAMESPACE, "-f", key, CHECKSUMS]);
    command.current_dir(out);
    shell::run(command)?;
    let public = shell::output(shell::command("ssh-keygen", &["-y", "-f", key]))?;
    println!("signed; who trusts the key has this line in their file of allowed signers:");
    println!("sancerre-release namespaces=\"{NAMESPACE}\" {}", public.trim());
    Ok(())
}

fn report(out: &Path, names: &[String]) -> Result<()> {
    println!("\n{}:", out.display());
    for name in names {
        let size_bytes = fs::metadata(out.join(name))?.len();
        println!("{:>8.1} MiB  {name}", size_bytes as f64 / f64::from(1 << 20));
    }
    print!("{}", fs::read_to_string(out.join(CHECKSUMS))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Options, parse};
    use std::path::PathBuf;

    #[test]
    fn paths_are_taken_from_where_the_command_was_typed_and_unknown_words_are_refused() {
        let options = parse(&["--try", "--key", "/k", "--binary", "b"]).unwrap();
        let binary = std::env::current_dir().unwrap().join("b");
        assert_eq!(options, Options { key: Some(PathBuf::from("/k")), binary: Some(binary), is_tried: true });
        assert_eq!(parse(&[]).unwrap(), Options::default());
        assert!(parse(&["--sign"]).unwrap_err().to_string().contains("--sign"));
        assert!(parse(&["--key"]).unwrap_err().to_string().contains("usage"));
    }
}
