//! Values of variables as people and other programs leave them there: with a line end or a byte-order mark around them,
//! in quotation marks, empty, or not in UTF-8. What cannot be part of a value is taken away; what makes no sense is
//! refused by the variable's name, and never taken for a variable that is not set.

use crate::exit::Failure;
use crate::io::Environment;

/// What editors and shells of other systems put around a value.
pub(crate) const AROUND: [char; 3] = ['\u{feff}', '\r', '\n'];
/// Variables that belong to the providers of cloud stores.
const CLOUD: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];
/// Those of them that hold a path, or a document.
const PATHS: [&str; 4] = ["_FILE", "_CREDENTIALS", "_PATH", "_ACCOUNT"];

/// The provider's variables, without what cannot be part of their values. An empty one counts as not set, as it does for
/// the providers' own programs.
///
/// Errors: [`Exit::Usage`](crate::exit::Exit) for a value that no request can carry.
pub(crate) fn cloud(environment: &Environment) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    for name in environment.names().filter(|name| CLOUD.iter().any(|prefix| name.starts_with(prefix))) {
        let value = environment.text(name)?.unwrap_or_default();
        let value = value.trim_matches(|letter: char| letter.is_whitespace() || AROUND.contains(&letter));
        refuse_odd(name, value)?;
        if !value.is_empty() {
            found.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(found)
}

fn refuse_odd(name: &str, value: &str) -> Result<(), Failure> {
    let refuse =
        |what: &str| Err(Failure::usage(format!("the variable {name} {what}; set it again without")));
    let is_quoted = |mark: char| value.len() > 1 && value.starts_with(mark) && value.ends_with(mark);
    // A service account's key is a document of several lines.
    let is_document = value.starts_with('{') || value.starts_with("-----BEGIN");
    let is_path = PATHS.iter().any(|end| name.ends_with(end)) || value.starts_with('/');
    match () {
        () if is_quoted('"') || is_quoted('\'') => {
            refuse("is in quotation marks, which are taken for a part of it")
        }
        () if !is_document && value.chars().any(char::is_control) => {
            refuse("has a line end or another control character in it")
        }
        () if !is_document && !is_path && !value.is_ascii() => {
            refuse("has characters in it that no request can carry")
        }
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    const KEY: &str = "AWS_ACCESS_KEY_ID";

    fn of(value: &str) -> Result<Vec<(String, String)>, String> {
        let environment = [(KEY, value), ("OTHER", "\n")].into_iter().collect();
        cloud(&environment).map_err(|failure| failure.message)
    }

    #[test]
    fn what_is_around_a_value_is_no_part_of_it() {
        for value in ["id", "id\n", "id\r\n", "\u{feff}id", " id\t", "\u{feff}\n id \r\n"] {
            assert_eq!(of(value).unwrap(), [(KEY.to_owned(), "id".to_owned())], "{value:?}");
        }
        for value in ["", "\n", " "] {
            assert_eq!(of(value).unwrap(), [], "{value:?}");
        }
    }

    #[test]
    fn what_no_request_can_carry_is_refused_by_name() {
        for value in ["\"id\"", "'id'", "i\nd", "i\u{7}d", "äid", "i\u{feff}d"] {
            assert!(of(value).unwrap_err().contains(KEY), "{value:?}");
        }
    }

    #[test]
    fn paths_and_documents_may_hold_more() {
        let environment = [
            ("GOOGLE_SERVICE_ACCOUNT_KEY", "{\n\"a\": \"ä\"\n}"),
            ("GOOGLE_SERVICE_ACCOUNT", "/srv/Schlüssel"),
        ];
        assert_eq!(cloud(&environment.into_iter().collect()).unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_utf8_is_refused_by_name() {
        let value = OsString::from_vec(b"\xff".to_vec());
        let environment = [(KEY.to_owned(), value)].into_iter().collect();
        assert!(cloud(&environment).unwrap_err().message.contains(KEY));
    }
}
