//! What people call machines, disks and attachments, and its one spelling in texts (FORMAT.md §1.5).

use std::fmt;

use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::error::{Result, corrupt, ensure};

/// Most bytes of a title, in UTF-8.
pub const TITLE_BYTES_MAX: usize = 255;

/// What a machine, disk, stream or attachment is called: UTF-8 in NFC that a line can show as it is.
///
/// `Display` writes it as people have it; signed texts hold [`Title::encoded`]. Ordered by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Title(String);

impl Title {
    /// Checks and wraps `text`, which must be in NFC.
    pub fn new(text: &str) -> Result<Self> {
        let rule = |holds: bool, rule: &str| ensure(holds, "name", || format!("{text:?} {rule}"));
        rule((1..=TITLE_BYTES_MAX).contains(&text.len()), "is not 1-255 bytes long")?;
        rule(text == text.trim(), "starts or ends with a space")?;
        rule(!matches!(text, "." | ".." | "-"), "is not a name, but means something else")?;
        rule(!text.chars().any(is_refused), "holds a control character, or one that turns text around")?;
        rule(is_nfc(text), "is not in Unicode normalization form C")?;
        Ok(Self(text.to_owned()))
    }

    /// The title that somebody typed, in whichever normalization form.
    pub fn typed(text: &str) -> Result<Self> {
        Self::new(&text.nfc().collect::<String>())
    }

    /// The title as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its spelling in signed texts, safe in URLs: all bytes but `A-Z a-z 0-9 . _ ~ -` as `%` and two hex digits.
    pub fn encoded(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'~' | b'-' => {
                    text.push(char::from(byte));
                }
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
        text
    }

    /// Reads [`Title::encoded`]; any other spelling is refused.
    pub fn decode(text: &str) -> Result<Self> {
        let bad = || corrupt("name", format!("{text:?} is not a name in its one spelling"));
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => {
                    let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                    let value = digit().zip(digit()).map(|(high, low)| high << 4 | low);
                    value.and_then(|value| u8::try_from(value).ok()).ok_or_else(bad)?
                }
                byte => byte,
            });
        }
        let title = Self::new(std::str::from_utf8(&bytes).map_err(|_| bad())?)?;
        ensure(title.encoded() == text, "name", || format!("{text:?} is not a name in its one spelling"))?;
        Ok(title)
    }
}

/// Control characters, ends of lines and paragraphs, and what changes the direction of text.
fn is_refused(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
