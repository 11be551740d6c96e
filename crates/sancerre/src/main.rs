//! The `sancerre` program.

fn main() {
    sancerre::prepare();
    let exit_code = sancerre::run(std::env::args_os(), sancerre::Io::process());
    std::process::exit(exit_code);
}
