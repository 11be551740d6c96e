//! `completions` and `man`: what is made of the definition of the commands.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Context, done};
use crate::arguments::Arguments;
use crate::exit::{Done, Failure};

pub(crate) fn completions(shell: Shell, context: &Context) -> Result<Done, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "sancerre", &mut script);
    context.output.result(&String::from_utf8_lossy(&script))?;
    Ok(done([]))
}

pub(crate) fn man(directory: &Path) -> Result<Done, Failure> {
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), directory));
    written.map(|()| done([])).map_err(|error| {
        Failure::failed(format!(
            "cannot write manual pages to {}: {error}; check the path",
            directory.display()
        ))
    })
}
