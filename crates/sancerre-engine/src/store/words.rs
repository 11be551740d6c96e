//! The words for a failure of the store: what libraries and providers say, without what hides the reason.

use crate::error::told;

/// Where a provider's machine is asked for credentials when no variable has any.
const INSTANCE: &str = "169.254.169.254";

/// What providers say to whose clock is wrong.
const SKEWED: [&str; 3] = ["RequestTimeTooSkewed", "RequestExpired", "Request date header too old"];
/// How XML spells what would be markup.
const ENTITIES: [(&str, &str); 7] = [
    ("&#39;", "'"),
    ("&#34;", "\""),
    ("&apos;", "'"),
    ("&quot;", "\""),
    ("&lt;", "<"),
    ("&gt;", ">"),
    // Last: what it spells may look like one of the others.
    ("&amp;", "&"),
];

/// Says why a request failed, on one line.
pub(crate) fn explain(error: &object_store::Error) -> String {
    let text = without_markup(&told(error));
    match () {
        () if text.contains(INSTANCE) => format!(
            "no variable has credentials (docs/STORES.md lists them), and this machine's provider gave none: {text}"
        ),
        () if SKEWED.iter().any(|word| text.contains(word)) => format!(
            "the clock of this machine and the store's differ too much for a request to be believed; set this machine's clock \
             (NTP): {text}"
        ),
        () => text,
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
        let spelled =
            ENTITIES.iter().fold(parts.join(": "), |text, (entity, plain)| text.replace(entity, plain));
        Some(format!("{before} {spelled}{after}"))
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
    fn a_message_is_shown_as_it_is_meant() {
        let text = "<Error><Code>X</Code><Message>a &#39;b&#39; &lt;c&gt; &amp;lt;</Message></Error>";
        assert_eq!(without_markup(text), "X: a 'b' <c> &lt;");
    }

    #[test]
    fn whose_clock_is_wrong_is_told() {
        let refused = "403: <Error><Code>RequestTimeTooSkewed</Code><Message>The difference &#39;is&#39; too large.\
                       </Message></Error>";
        let error = object_store::Error::Generic { store: "S3", source: refused.into() };
        let told = explain(&error);
        assert!(
            told.starts_with("the clock of this machine") && told.contains("difference 'is' too"),
            "{told}"
        );
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
