//! libvirt, through its own program: it is on every host that has libvirt, and speaks XML both ways.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sancerre_advice::Setting::Connection;

use crate::error::CaptureError;
use crate::program;
use crate::xml::Element;

/// An answer takes 50 ms; a busy host may take seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// A connection to libvirt.
#[derive(Debug, Clone)]
pub struct Virsh {
    program: PathBuf,
    uri: String,
    /// A lock that each call holds until it is over, also when this process is not there any more. It is the program's
    /// standard input, which nobody reads.
    held: Option<Arc<File>>,
}

impl Virsh {
    /// By this program and connection, such as `qemu:///system`.
    ///
    /// # Errors
    /// [`CaptureError::Unfit`] for a host that is not this one: sockets and files of its machines are not here.
    pub fn new(program: PathBuf, uri: &str) -> Result<Self, CaptureError> {
        let rest = uri.split_once("://").map(|(_, rest)| rest);
        match rest {
            Some(rest) if rest.starts_with('/') => Ok(Self { program, uri: uri.to_owned(), held: None }),
            Some(_) => Err(CaptureError::Unfit(format!(
                "{Connection} {uri} names another host; run sancerre on that host, where its machines' disks can be read"
            ))),
            None => Err(CaptureError::Unfit(format!(
                "{Connection} {uri} is no connection; give one such as qemu:///system or qemu:///session"
            ))),
        }
    }

    /// The same, whose calls hold a lock: what is asked of libvirt goes on when the one who asked is killed, and must be over
    /// before another looks.
    pub(crate) fn holding(self, lock: Arc<File>) -> Self {
        Self { held: Some(lock), ..self }
    }

    fn stdin(&self) -> io::Result<Stdio> {
        self.held.as_ref().map_or(Ok(Stdio::null()), |lock| Ok(Stdio::from(lock.try_clone()?)))
    }

    /// The program, for a process that goes on by itself.
    pub(crate) fn program(&self) -> &std::path::Path {
        &self.program
    }

    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// What virsh prints.
    pub(crate) fn call(&self, arguments: &[&str]) -> Result<String, CaptureError> {
        self.call_within(LIMIT, arguments)
    }

    pub(crate) fn call_within(&self, limit: Duration, arguments: &[&str]) -> Result<String, CaptureError> {
        let what = || format!("virsh {}", arguments.join(" "));
        let mut command = Command::new(&self.program);
        command.arg("--connect").arg(&self.uri).args(arguments.iter().map(OsStr::new));
        let ran = self.stdin().and_then(|stdin| program::run(&mut command, stdin, limit));
        let ran = ran.map_err(|source| CaptureError::Program {
            program: self.program.display().to_string(),
            source,
            advice: "it is in the package libvirt-clients (Debian, Ubuntu) or libvirt-client (Fedora, SUSE)",
        })?;
        match ran.status {
            Some(status) if status.success() => Ok(ran.stdout),
            Some(_) => Err(CaptureError::Refused { what: what(), said: said(&ran.stderr) }),
            None => Err(CaptureError::Slow { what: what(), seconds: limit.as_secs() }),
        }
    }

    /// What virsh prints, as XML.
    pub(crate) fn xml(&self, what: &str, arguments: &[&str]) -> Result<(Element, String), CaptureError> {
        let text = self.call(arguments)?;
        let problem = |problem| CaptureError::Xml { what: what.to_owned(), problem };
        Ok((Element::parse(&text).map_err(problem)?, text))
    }

    /// The ids of all machines that the host has, running or not.
    ///
    /// # Errors
    /// What virsh said.
    pub fn machines(&self) -> Result<Vec<String>, CaptureError> {
        let text = self.call(&["list", "--all", "--uuid"])?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }
}

/// An error's words on one line, without the word before them.
fn said(stderr: &str) -> String {
    let lines = stderr.lines().map(|line| line.trim().trim_start_matches("error: "));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "it gave no reason".into() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_connected_to() {
        for uri in ["qemu:///system", "qemu:///session", "qemu+unix:///session?socket=/x"] {
            Virsh::new("virsh".into(), uri).unwrap();
        }
        for uri in ["qemu+ssh://root@host/system", "qemu", ""] {
            Virsh::new("virsh".into(), uri).unwrap_err();
        }
    }

    #[test]
    fn an_error_is_told_without_its_word() {
        assert_eq!(said("error: Failed to start\nerror: no room\n\n"), "Failed to start; no room");
        assert_eq!(said("\n"), "it gave no reason");
    }
}
