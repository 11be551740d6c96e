//! Names of guests' files for people: bytes that anybody may have chosen.

use crate::plain;

/// A name as text, in which bytes that are no text are written as `\xNN`, and nothing is left that a terminal obeys.
pub(crate) fn shown(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    plain::line(&text).into_owned()
}

/// The name that [`shown`] writes so; none when it is no other.
pub(crate) fn unescaped(shown: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(shown).ok()?;
    let (mut name, mut rest) = (Vec::new(), text);
    let mut is_other = false;
    while let Some((before, after)) = rest.split_once("\\") {
        name.extend_from_slice(before.as_bytes());
        let (bytes, behind) = match escape(after) {
            Some(found) => found,
            None => (b"\\".to_vec(), after),
        };
        is_other |= bytes != b"\\";
        name.extend(bytes);
        rest = behind;
    }
    name.extend_from_slice(rest.as_bytes());
    is_other.then_some(name)
}

/// `xNN`, or `u{N}`.
fn escape(after: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(digits) = after.strip_prefix('x') {
        let (digits, rest) = digits.split_at_checked(2)?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|byte| *byte >= 0x80)?;
        return Some((vec![byte], rest));
    }
    let (digits, rest) = after.strip_prefix("u{")?.split_once('}')?;
    let letter = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)?;
    Some((letter.to_string().into_bytes(), rest))
}

/// Whether a name fits a pattern, in which `*` stands for any letters and `?` for one.
pub(crate) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut of, mut back) = (0, 0, None::<(usize, usize)>);
    while let Some(letter) = name.get(at) {
        match pattern.get(of) {
            Some(b'*') => {
                of = of.saturating_add(1);
                back = Some((of, at));
            }
            Some(sign) if sign == letter || *sign == b'?' => {
                (at, of) = (at.saturating_add(1), of.saturating_add(1));
                // `?` is a letter, which may be several bytes.
                while *sign == b'?' && name.get(at).is_some_and(|byte| byte & 0xc0 == 0x80) {
                    at = at.saturating_add(1);
                }
            }
            _ => match back {
                None => return false,
                Some((pattern_at, name_at)) => {
                    back = Some((pattern_at, name_at.saturating_add(1)));
                    (of, at) = (pattern_at, name_at.saturating_add(1));
                }
            },
        }
    }
    pattern.get(of..).unwrap_or_default().iter().all(|sign| *sign == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_harmless_and_found_again() {
        for name in [b"plain".as_slice(), "ä 日".as_bytes(), b"bad\xff\xfename", b"line\nbreak\x1b[31m"] {
            let text = shown(name);
            assert!(text.chars().all(|letter| !letter.is_control()), "{text}");
            match text.as_bytes() == name {
                true => assert_eq!(unescaped(text.as_bytes()), None),
                false => assert_eq!(unescaped(text.as_bytes()).unwrap(), name),
            }
        }
        assert_eq!(unescaped(b"a\\x41\\q\\"), None);
    }

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, name, fits_it) in [
            ("*.xlsx", "a.xlsx", true),
            ("*.xlsx", "a.xls", false),
            ("a*b*c", "axxbyybzzc", true),
            ("?", "ä", true),
            ("??", "ä", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), fits_it, "{pattern} {name}");
        }
    }
}
