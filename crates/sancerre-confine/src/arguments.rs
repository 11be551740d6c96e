//! A confinement as arguments of the helper, and back.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::{ConfineError, Confinement, Limits, Seclusion};

const PARENT: &str = "--parent";
const READ: &str = "--read";
const WRITE: &str = "--write";
const MEMORY: &str = "--address-space";
const CPU: &str = "--cpu-seconds";
const FILES: &str = "--open-files";
const LENGTH: &str = "--file-bytes";
const LISTENS: &str = "--listens";
const NO_SANDBOX: &str = "--no-sandbox";
const OWN: &str = "--own";
const PROGRAM: &str = "--";

/// What the helper becomes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Started {
    /// Another program.
    Program(Confinement),
    /// What it is.
    Own(Seclusion),
}

impl Confinement {
    /// What the helper is started with by the process `parent`.
    pub(crate) fn encode(&self, parent: u32) -> Vec<OsString> {
        let mut words = begin(parent, self.limits, self.sandbox);
        for path in &self.readable {
            words.extend([READ.into(), path.clone().into_os_string()]);
        }
        for path in &self.writable {
            words.extend([WRITE.into(), path.clone().into_os_string()]);
        }
        words.extend(self.listens.then(|| LISTENS.into()));
        words.extend([PROGRAM.into(), self.program.clone().into_os_string()]);
        words.extend(self.arguments.iter().cloned());
        words
    }
}

impl Seclusion {
    /// As [`Confinement::encode`].
    pub(crate) fn encode(&self, parent: u32) -> Vec<OsString> {
        let mut words = begin(parent, self.limits, self.sandbox);
        words.push(OWN.into());
        words
    }
}

fn begin(parent: u32, limits: Limits, sandbox: bool) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![PARENT.into(), parent.to_string().into()];
    for (name, value) in [
        (MEMORY, limits.address_space_bytes),
        (CPU, limits.cpu_seconds),
        (FILES, limits.open_files),
        (LENGTH, limits.file_bytes),
    ] {
        words.extend([name.into(), value.to_string().into()]);
    }
    words.extend((!sandbox).then(|| NO_SANDBOX.into()));
    words
}

impl Started {
    /// What [`Confinement::encode`] and [`Seclusion::encode`] wrote, and the parent. Nothing has a default.
    pub(crate) fn decode(words: impl IntoIterator<Item = OsString>) -> Result<(Self, u64), ConfineError> {
        let mut words = words.into_iter();
        let (mut readable, mut writable, mut listens, mut sandbox) = (Vec::new(), Vec::new(), false, true);
        let (mut parent, mut memory, mut cpu, mut files, mut length) = (None, None, None, None, None);
        let is_own = loop {
            let word = words.next().ok_or(ConfineError::Arguments("no program"))?;
            match word.to_str() {
                Some(READ) => readable.push(PathBuf::from(words.next().unwrap_or_default())),
                Some(WRITE) => writable.push(PathBuf::from(words.next().unwrap_or_default())),
                Some(PARENT) => parent = number(words.next()),
                Some(MEMORY) => memory = number(words.next()),
                Some(CPU) => cpu = number(words.next()),
                Some(FILES) => files = number(words.next()),
                Some(LENGTH) => length = number(words.next()),
                Some(LISTENS) => listens = true,
                Some(NO_SANDBOX) => sandbox = false,
                Some(OWN) => break true,
                Some(PROGRAM) => break false,
                _ => return Err(ConfineError::Arguments("an unknown word")),
            }
        };
        let (Some(address_space_bytes), Some(cpu_seconds), Some(open_files), Some(file_bytes)) =
            (memory, cpu, files, length)
        else {
            return Err(ConfineError::Arguments("a limit is missing or no number"));
        };
        let limits = Limits { address_space_bytes, cpu_seconds, open_files, file_bytes };
        let parent = parent.ok_or(ConfineError::Arguments("no parent"))?;
        if is_own {
            let is_clean = readable.is_empty() && writable.is_empty() && !listens && words.next().is_none();
            let own = is_clean.then_some(Self::Own(Seclusion { limits, sandbox }));
            return own.map(|own| (own, parent)).ok_or(ConfineError::Arguments("a word too many"));
        }
        let program = words.next().map(PathBuf::from).filter(|program| program.is_absolute());
        let program = program.ok_or(ConfineError::Arguments("the program has no absolute path"))?;
        let arguments = words.collect();
        let confinement = Confinement { program, arguments, readable, writable, limits, listens, sandbox };
        Ok((Self::Program(confinement), parent))
    }
}

fn number(word: Option<OsString>) -> Option<u64> {
    word?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::Started;
    use crate::{Confinement, Limits, Seclusion};

    #[test]
    fn a_confinement_survives_the_command_line() {
        for (listens, sandbox) in [(false, true), (true, false)] {
            let confinement = Confinement {
                program: "/usr/bin/x y".into(),
                arguments: vec!["--".into(), "--no-sandbox".into(), "".into()],
                readable: vec!["/a b".into(), "--read".into()],
                writable: vec!["--write".into(), "/c".into()],
                limits: Limits { address_space_bytes: u64::MAX, ..Limits::default() },
                listens,
                sandbox,
            };
            let decoded = Started::decode(confinement.encode(7)).unwrap();
            assert_eq!(decoded, (Started::Program(confinement), 7));
            let seclusion = Seclusion { limits: Limits::default(), sandbox };
            assert_eq!(Started::decode(seclusion.encode(8)).unwrap(), (Started::Own(seclusion), 8));
        }
    }

    #[test]
    fn nothing_is_left_to_defaults() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let limits = "--parent 1 --address-space 1 --cpu-seconds 1 --open-files 1 --file-bytes 1";
        assert!(Started::decode(words(&format!("{limits} -- /bin/true"))).is_ok());
        assert!(Started::decode(words(&format!("{limits} --own"))).is_ok());
        for text in ["-- /bin/true", "--own", limits, &format!("{limits} --"), &format!("{limits} -- true")] {
            assert!(Started::decode(words(text)).is_err(), "{text}");
        }
        for more in [
            "--cpu-seconds x -- /bin/true",
            "--own x",
            "--read /etc --own",
            "--write /etc --own",
            "--listens --own",
            "--allow x",
        ] {
            assert!(Started::decode(words(&format!("{limits} {more}"))).is_err(), "{more}");
        }
    }
}
