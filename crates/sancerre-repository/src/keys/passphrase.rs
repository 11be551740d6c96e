//! The forms of a passphrase (FORMAT.md §4): the same words typed on two machines are the same passphrase.

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::{ExposeSecret, SecretString};

/// What stands around a passphrase when a file was written by another program, and is no part of it.
const AROUND: [char; 3] = ['\u{feff}', '\r', '\n'];

/// The form that is sealed under: NFC, without a byte order mark and line ends around it.
pub fn normal(passphrase: &SecretString) -> SecretString {
    let text = passphrase.expose_secret().trim_matches(AROUND);
    // An umlaut is one character on one system and two on another. No growth: reallocating would leave copies behind.
    let mut normal = Zeroizing::new(String::with_capacity(text.len().saturating_mul(3)));
    normal.extend(text.nfc());
    SecretString::from(normal.as_str().to_owned())
}

/// The forms to try, the normal one first; the other is as it was given.
pub(super) fn forms(passphrase: &SecretString) -> Vec<SecretString> {
    let normal = normal(passphrase);
    match normal.expose_secret() == passphrase.expose_secret() {
        true => vec![normal],
        false => vec![normal, passphrase.clone()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        normal(&SecretString::from(text.to_owned())).expose_secret().to_owned()
    }

    #[test]
    fn the_same_words_are_the_same_passphrase() {
        for text in
            ["stra\u{df}e \u{fc}ber", "stra\u{df}e u\u{308}ber", "\u{feff}stra\u{df}e u\u{308}ber\r\n"]
        {
            assert_eq!(of(text), "stra\u{df}e \u{fc}ber");
        }
        assert_eq!(of(" two  words "), " two  words ", "spaces are a part of it");
    }

    #[test]
    fn what_was_given_is_tried_too() {
        let forms = |text: &str| forms(&SecretString::from(text.to_owned())).len();
        assert_eq!((forms("plain"), forms("u\u{308}ber"), forms("plain\n")), (1, 2, 2));
    }
}
