//! Between the places and words of a page and those of a trial.

use std::path::Path;

use super::words::ROOTS;

/// The folder of a trial, and the words that stand for something in it.
pub(crate) struct Places {
    folder: String,
    words: Vec<(&'static str, String)>,
}

impl Places {
    pub(crate) fn new(folder: &Path, words: Vec<(&'static str, String)>) -> Self {
        Self { folder: folder.display().to_string(), words }
    }

    /// As it is run: `/srv/backup` lies below the trial's folder.
    pub(crate) fn inward(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (word, stands_for) in &self.words {
            text = text.replace(word, stands_for);
        }
        ROOTS.iter().fold(text, |text, root| self.moved(&text, root))
    }

    /// The same for files that are not typed: every mention counts.
    pub(crate) fn everywhere(&self, text: &str) -> String {
        ROOTS.iter().fold(text.to_owned(), |text, root| text.replace(root, &format!("{}{root}", self.folder)))
    }

    /// As the page shows it.
    pub(crate) fn outward(&self, text: &str) -> String {
        let mut text = text.replace(&format!("{}/", self.folder), "/").replace(&self.folder, "");
        for (word, stands_for) in &self.words {
            text = text.replace(stands_for, word);
        }
        text
    }

    /// A root counts where a path begins, and not within one or behind a colon, as paths of guests stand.
    fn moved(&self, text: &str, root: &str) -> String {
        let mut moved = String::new();
        let mut rest = 0;
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            let after = text[at + root.len()..].chars().next();
            let begins =
                before.is_none_or(|letter| !letter.is_alphanumeric() && !"_.-}$*~/):".contains(letter));
            let ends = after.is_none_or(|letter| !letter.is_alphanumeric() && !"_.-".contains(letter));
            if begins && ends {
                moved.push_str(&text[rest..at]);
                moved.push_str(&self.folder);
                rest = at;
            }
        }
        moved.push_str(&text[rest..]);
        moved
    }
}
