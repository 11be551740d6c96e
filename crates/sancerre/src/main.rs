//! The `sancerre` program.

fn main() {
    // Before helpers as well: what they say is shown to the same user.
    sancerre::spell();
    // The helper, which confines itself before anything else has a file open; then it becomes another program, or reads an
    // image.
    let mut arguments = std::env::args_os();
    let word = arguments.nth(1);
    if word.as_ref().is_some_and(|word| word == sancerre_confine::SUBCOMMAND) {
        std::process::exit(sancerre_confine::run(arguments, sancerre_image::confined::inside));
    }
    if word.as_ref().is_some_and(|word| word == sancerre_guest::SUBCOMMAND) {
        std::process::exit(sancerre_confine::run(arguments, sancerre_guest::inside));
    }
    if word.as_ref().is_some_and(|word| word == sancerre_capture::guard::SUBCOMMAND) {
        std::process::exit(sancerre_capture::guard::run(arguments));
    }
    if word.as_ref().is_some_and(|word| word == sancerre_capture::keeping::SUBCOMMAND) {
        std::process::exit(sancerre_capture::keeping::run(arguments));
    }
    if word.is_some_and(|word| word == sancerre_capture::around::SUBCOMMAND) {
        std::process::exit(sancerre_capture::around::run(arguments));
    }
    sancerre::prepare();
    let exit_code = sancerre::run(std::env::args_os(), sancerre::Io::process());
    std::process::exit(exit_code);
}
