//! Whether what was printed here is what the page shows: names, words and counts are compared as they are; of ids, keys, times, sizes
//! and versions only that there is one. A line with nothing but `…` stands for any lines, and `…` within a line for anything.

use std::collections::BTreeMap;
use std::path::Path;

/// Units behind a number.
const SIZES: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
const TIMES: [&str; 4] = ["min", "s", "d", "h"];

/// What ids and keys of the page are here.
pub(crate) struct Learned(BTreeMap<String, String>);

/// A word of a line: what is compared of it, and its value where a page may type that again.
struct Word {
    shape: String,
    value: Option<String>,
}

impl Learned {
    /// Lines of a file: as the page has it, a tab, as it is here.
    pub(crate) fn from_file(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        Self(pairs.map(|(page, here)| (page.to_owned(), here.to_owned())).collect())
    }

    /// With the values of here in place of the page's.
    pub(crate) fn replace(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (page, here)| whole_words(&text, page, here))
    }

    /// With the values of the page in place of those here.
    pub(crate) fn outward(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (page, here)| text.replace(here, page))
    }

    /// Whether both say the same, and if so what the page's ids and keys are here.
    pub(crate) fn compare(&mut self, page: &str, here: &str) -> bool {
        let (page, here): (Vec<_>, Vec<_>) = (page.lines().collect(), here.lines().collect());
        let mut found = BTreeMap::new();
        let fits = lines_fit(&page, &here, &mut found);
        if fits {
            self.0.append(&mut found);
        }
        fits
    }
}

fn lines_fit(page: &[&str], here: &[&str], found: &mut BTreeMap<String, String>) -> bool {
    let Some((first, others)) = page.split_first() else { return here.is_empty() };
    if first.trim() == "…" {
        return (0..=here.len()).any(|skipped| lines_fit(others, &here[skipped..], found));
    }
    here.split_first()
        .is_some_and(|(line, rest)| line_fits(first, line, found) && lines_fit(others, rest, found))
}

fn line_fits(page: &str, here: &str, found: &mut BTreeMap<String, String>) -> bool {
    if page.contains('…') {
        return parts_fit(page, &shape(here));
    }
    let (page, here) = (words(page), words(here));
    let fits = page.len() == here.len() && page.iter().zip(&here).all(|(a, b)| a.shape == b.shape);
    if fits {
        let pairs = page.into_iter().zip(here).filter_map(|(a, b)| a.value.zip(b.value));
        found.extend(pairs);
    }
    fits
}

/// What stands between the `…` of a line is found in this order, the first at the start and the last at the end.
fn parts_fit(page: &str, here: &str) -> bool {
    let parts: Vec<String> = page.split('…').map(shape).collect();
    let Some(mut rest) = here.strip_prefix(parts[0].as_str()) else { return false };
    for part in &parts[1..parts.len() - 1] {
        let Some(at) = rest.find(part.as_str()) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(parts[parts.len() - 1].as_str())
}

fn shape(line: &str) -> String {
    let shapes: Vec<String> = words(line).into_iter().map(|word| word.shape).collect();
    shapes.join(" ")
}

/// The words of a line; a number and its unit are one.
fn words(line: &str) -> Vec<Word> {
    let raw: Vec<&str> = line.split_whitespace().collect();
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(word) = raw.get(at) {
        at += 1;
        let quantity = raw.get(at).and_then(|unit| quantity(word, unit));
        at += usize::from(quantity.is_some());
        words.push(quantity.unwrap_or_else(|| single(word)));
    }
    words
}

/// `12.5 MiB`, `0 B`, `44 d`. Nothing at all is told from something.
fn quantity(number: &str, unit: &str) -> Option<Word> {
    let (bracket, number) = number.strip_prefix('(').map_or(("", number), |number| ("(", number));
    let letters = unit.trim_end_matches([')', ',', '.', ';', ':']);
    let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let class = match () {
        () if !is_number => return None,
        () if SIZES.contains(&letters) && number == "0" => "0 B",
        () if SIZES.contains(&letters) => "<size>",
        () if TIMES.contains(&letters) => "<time>",
        () => return None,
    };
    Some(Word { shape: format!("{bracket}{class}{}", &unit[letters.len()..]), value: None })
}

fn single(word: &str) -> Word {
    let core = word.trim_matches(['(', ')', ',', ';', ':', '.']);
    match class(core) {
        Some((class, is_typed)) => {
            Word { shape: word.replacen(core, class, 1), value: is_typed.then(|| core.to_owned()) }
        }
        None => Word { shape: word.to_owned(), value: None },
    }
}

/// Of what kind a value is that differs from run to run, and whether a page may type it again.
fn class(core: &str) -> Option<(&'static str, bool)> {
    let is_hex = core.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    let decimals: Vec<&str> = core.split('.').collect();
    let is_decimal = decimals.iter().all(|part| is_digits(part));
    match () {
        () if is_hex && core.len() == 8 => Some(("<id>", true)),
        () if is_hex && [16, 32, 64].contains(&core.len()) => Some(("<hash>", true)),
        () if core.strip_prefix("SHA256:").is_some_and(|rest| rest.len() == 43) => {
            Some(("<fingerprint>", true))
        }
        () if core.starts_with("AGE-SECRET-KEY-") || core.starts_with("age1") => Some(("<age>", true)),
        () if core.starts_with("paper-pq") => Some(("<paper>", true)),
        () if is_like(core, "dddd-dd-dd") || is_like(core, "dddd-dd") => Some(("<day>", false)),
        () if is_like(core, "dddd-dd-ddTdd:dd:ddZ") => Some(("<moment>", false)),
        () if ["dd:dd:dd", "d:dd", "dd:dd"].iter().any(|form| is_like(core, form)) => {
            Some(("<clock>", false))
        }
        () if is_decimal && decimals.len() == 3 => Some(("<version>", false)),
        () if is_decimal && decimals.len() == 2 => Some(("<decimal>", false)),
        () if core.strip_suffix('x').is_some_and(|rest| rest.contains('.')) => Some(("<factor>", false)),
        () if is_digits(core) && core.len() > 5 => Some(("<number>", false)),
        () => None,
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

/// `d` stands for a digit.
fn is_like(text: &str, form: &str) -> bool {
    let fits = |(c, form): (char, char)| if form == 'd' { c.is_ascii_digit() } else { c == form };
    text.len() == form.len() && text.chars().zip(form.chars()).all(fits)
}

fn whole_words(text: &str, from: &str, to: &str) -> String {
    let mut replaced = String::new();
    let mut rest = 0;
    for (at, _) in text.match_indices(from) {
        let is_part = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
        let end = at + from.len();
        if !is_part(text[..at].chars().next_back()) && !is_part(text[end..].chars().next()) {
            replaced.push_str(&text[rest..at]);
            replaced.push_str(to);
            rest = end;
        }
    }
    replaced.push_str(&text[rest..]);
    replaced
}

#[test]
fn what_differs_from_run_to_run_is_no_difference_and_all_else_is() {
    let mut learned = Learned(BTreeMap::new());
    let page = "snapshot 5e12ce5f of web01: 609.3 MiB of data, 0 B new, in 0:02\n…\n2 snapshots";
    let here = "snapshot 97661502 of web01:  8.9 MiB of data, 0 B new, in 0:00\nmore\nand more\n2 snapshots";
    assert!(learned.compare(page, here));
    assert_eq!(learned.replace("undelete 5e12ce5f, not 5e12ce5f0"), "undelete 97661502, not 5e12ce5f0");
    for (from, to) in [("web01", "web02"), ("0 B", "1 B"), ("2 snapshots", "3 snapshots"), ("new", "old")] {
        assert!(!learned.compare(page, &here.replace(from, to)), "{from}");
    }
    assert!(learned.compare(
        "costs dea82fa7 (web01), disk0: …",
        "  costs 0ea82fa7 (web01), disk0: 9.0 KiB at bytes 0-9"
    ));
    assert!(
        !learned
            .compare("costs … (web02), disk0: …", "  costs 0ea82fa7 (web01), disk0: 9.0 KiB at bytes 0-9")
    );
}
