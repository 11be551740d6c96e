//! Our checkpoints: named after the repository and the session that saves what they mark.

use crate::xml::Element;

/// Digits of the repository's id, and of the session's hash.
const REPOSITORY_DIGITS: usize = 8;
const SESSION_DIGITS: usize = 16;
const PREFIX: &str = "sancerre-";

/// The names that one repository gives.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    prefix: String,
}

impl Names {
    /// Of the repository with this id, in hexadecimal.
    pub(crate) fn of(repository: &str) -> Self {
        Self { prefix: format!("{PREFIX}{}-", cut(repository, REPOSITORY_DIGITS)) }
    }

    /// Of the session with this hash, in hexadecimal.
    pub(crate) fn checkpoint(&self, session: &str) -> String {
        format!("{}{}", self.prefix, cut(session, SESSION_DIGITS))
    }

    /// Whether this repository gave it. Whatever else begins so is another's.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        let session = name.strip_prefix(&self.prefix);
        session.is_some_and(|session| {
            session.len() == SESSION_DIGITS && session.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }
}

fn cut(text: &str, digits: usize) -> String {
    text.chars().take(digits).collect()
}

/// The targets of which a checkpoint keeps a list of changes.
pub(crate) fn marked(element: &Element) -> Vec<String> {
    let disks = element.child("disks");
    let disks = disks.into_iter().flat_map(|disks| disks.all("disk"));
    let marked = disks.filter(|disk| disk.attribute("checkpoint") == Some("bitmap"));
    marked.filter_map(|disk| disk.attribute("name").map(str::to_owned)).collect()
}

/// What makes a checkpoint over these disks.
pub(crate) fn described(name: &str, targets: &[&str]) -> Element {
    let disk = |target: &&str| Element::new("disk").with("name", target).with("checkpoint", "bitmap");
    let disks = targets.iter().map(disk).fold(Element::new("disks"), Element::holding);
    Element::new("domaincheckpoint").holding(Element::new("name").saying(name)).holding(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_of_this_repository_are_ours() {
        let names = Names::of("0123456789abcdef");
        let ours = names.checkpoint("00112233445566778899");
        assert_eq!(ours, "sancerre-01234567-0011223344556677");
        assert!(names.is_ours(&ours));
        let others = [
            "sancerre-01234567-00112233445566778",
            "sancerre-01234568-0011223344556677",
            "virtnbdbackup.0",
            "sancerre-01234567-",
            "sancerre-01234567-0011223344556 77",
        ];
        for other in others {
            assert!(!names.is_ours(other), "{other}");
        }
    }

    #[test]
    fn a_checkpoint_says_which_disks_it_marks() {
        let mut made = described("x", &["vda", "vdb"]);
        assert_eq!(marked(&made), ["vda", "vdb"]);
        made.children.iter_mut().for_each(|child| child.children.truncate(1));
        assert_eq!(marked(&made), ["vda"]);
    }
}
