//! Text from elsewhere on a terminal: keys of objects, what providers answer, names in records. Whoever can create an
//! object chooses its key, and must not move the cursor, hide a line or turn one around with it.

use std::borrow::Cow;
use std::path::Path;

/// Characters that change how others are shown, besides the control characters.
fn is_format(character: char) -> bool {
    matches!(character,
        '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escaped(text: &str, is_bad: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.chars().any(&is_bad) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match is_bad(character) {
            true => plain.push_str(&escape(character)),
            false => plain.push(character),
        }
    }
    Cow::Owned(plain)
}

/// Text of several lines, in which nothing but their ends is left that a terminal would obey.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    let is_bad = |character: char| character != '\n' && (character.is_control() || is_format(character));
    escaped(text, is_bad, |character| character.escape_unicode().collect())
}

/// The same of one line: what it quotes cannot make it look like two.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    let is_bad = |character: char| character.is_control() || is_format(character);
    escaped(text, is_bad, |character| character.escape_unicode().collect())
}

/// A path in a message: nothing in it looks like more than a path.
pub(crate) fn path(path: &Path) -> String {
    line(&path.display().to_string()).into_owned()
}

/// A line of JSON, which says the same with what a terminal would obey spelled out.
pub(crate) fn json(line: &str) -> Cow<'_, str> {
    let is_bad = |character: char| character.is_control() || is_format(character);
    escaped(line, is_bad, |character| {
        let mut units = [0; 2];
        character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "log/\u{1b}[2J\u{9b}31m\r\u{7}\u{202e}\u{2066}x\ndone";

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        let shown = lines(EVIL);
        assert_eq!(shown, "log/\\u{1b}[2J\\u{9b}31m\\u{d}\\u{7}\\u{202e}\\u{2066}x\ndone");
        assert_eq!(line(EVIL), shown.replace('\n', "\\u{a}"));
    }

    #[test]
    fn people_s_names_stay_as_they_are() {
        for text in ["", "web01", "Büro-Server 2", "サーバー", "👨\u{200d}💻", "a\u{301}", "µ—§"]
        {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn a_path_is_one_word_of_one_line() {
        assert_eq!(path(Path::new("/srv/a\n\u{1b}[31mdone")), "/srv/a\\u{a}\\u{1b}[31mdone");
    }

    #[test]
    fn json_says_the_same() {
        let spelled = serde_json::to_string(&format!("{EVIL}\u{e0041}")).unwrap();
        let shown = json(&spelled);
        assert!(shown.chars().all(|character| !character.is_control() && !is_format(character)), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), format!("{EVIL}\u{e0041}"));
    }
}
