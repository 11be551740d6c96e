//! The words for a failure of the store: what libraries and providers say, without what hides the reason.

use crate::error::told;

/// Where a provider's machine is asked for credentials when no variable has any.
const INSTANCE: &str = "169.254.169.254";

/// Says why a request failed, on one line.
pub(crate) fn explain(error: &object_store::Error) -> String {
    let text = without_markup(&told(error));
    match text.contains(INSTANCE) {
        true => format!(
            "no variable has credentials (docs/STORES.md lists them), and this machine's provider gave none: {text}"
        ),
        false => text,
    }
}

/// A provider's `Error` document in the middle of a text becomes its code and its message.
pub(crate) fn without_markup(text: &str) -> String {
    let shortened = text.split_once("<Error>").and_then(|(before, rest)| {
        let (error, after) = rest.split_once("</Error>")?;
        let before = before.split_once("<?xml").map_or(before, |(before, _)| before);
        let before = before.trim_end_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        let parts: Vec<&str> =
            ["Code", "Message"].into_iter().filter_map(|name| element(error, name)).collect();
        Some(format!("{before} {}{after}", parts.join(": ")))
    });
    let text = shortened.as_deref().unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text of the first XML element of this name that has no attributes.
pub(super) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_becomes_code_and_message() {
        let text = "403 Forbidden: <?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code>\
                    <Message>Not you.</Message><Key>x</Key></Error>";
        assert_eq!(without_markup(text), "403 Forbidden: AccessDenied: Not you.");
        assert_eq!(without_markup("404: \u{feff}<Error><Code>Gone</Code></Error> again"), "404: Gone again");
    }

    #[test]
    fn what_is_no_document_stays() {
        for text in ["", "refused", "<Error> without an end", "a <Code>b</Code>"] {
            assert_eq!(without_markup(text), text);
        }
        assert_eq!(without_markup("two\n  lines"), "two lines");
    }

    #[test]
    fn whoever_set_no_credentials_is_told() {
        let asked = format!("Error performing PUT {INSTANCE}/latest/api/token: no route to host");
        let error = object_store::Error::Generic { store: "S3", source: asked.into() };
        assert!(explain(&error).starts_with("no variable has credentials"));
        let other = object_store::Error::Generic { store: "S3", source: "no route to host".into() };
        assert_eq!(explain(&other), "Generic S3 error: no route to host");
    }
}
