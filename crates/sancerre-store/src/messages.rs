//! The words for a failure of the store: what libraries and providers say, without what hides the reason.

use std::borrow::Cow;
use std::io;

use quick_xml::escape::unescape;
use sancerre_advice::Verb::{Forget, Gc};

use crate::causes::with_root_cause;
use crate::causes::{self, FOLDER, of_kernel};
use crate::folder::Refused;

/// Where a provider's machines are asked for credentials when no variable has any.
pub(crate) const INSTANCES: [&str; 2] = ["169.254.169.254", "metadata.google.internal"];

/// What to do where the kernel refuses a user a file or a folder.
const MAY_NOT: &str = "this user may not do that: run as the owner of the folder, or have the owner give your group the right \
                       (docs/STORES.md, Who may read a folder), then run again";

/// What providers say to whose clock is wrong.
const SKEWED: [&str; 3] = ["RequestTimeTooSkewed", "RequestExpired", "Request date header too old"];

/// Says why a request failed, on one line.
pub fn explain(error: &object_store::Error) -> String {
    if let object_store::Error::Generic { store: FOLDER, source } = error {
        return with_root_cause(source.as_ref());
    }
    let text = without_markup(&with_root_cause(error));
    match () {
        () if names_instance(&text) => format!(
            "no variable has credentials (docs/STORES.md lists them), and this machine's provider gave none: {text}"
        ),
        () if SKEWED.iter().any(|word| text.contains(word)) => format!(
            "the clock of this machine and the store's differ too much for a request to be believed; set this machine's clock \
             (NTP): {text}"
        ),
        () => text,
    }
}

/// What to do about it.
pub(crate) fn advice(error: &object_store::Error) -> Cow<'static, str> {
    if causes::find::<Refused>(error).is_some_and(|refused| matches!(refused, Refused::NoCreate { .. })) {
        return "mount it in a way that has hard links, or use another place (docs/STORES.md)".into();
    }
    match of_kernel(error).filter(|_| causes::is_of_a_folder(error)) {
        Some(error) if error.kind() == io::ErrorKind::QuotaExceeded => format!(
            "the quota of this user or folder is used up. Raise it; or run {Forget} and then {Gc}, which need no room there; \
             then run again"
        )
        .into(),
        Some(error) if causes::is_full(error) => format!(
            "the disk is full, or has no room for one more file. Run {Forget} and then {Gc}, which can empty a full disk, or \
             make room otherwise; then run again"
        )
        .into(),
        Some(error) => of_a_folder(error.kind()).into(),
        None if causes::is_of_a_folder(error) => "see what is mounted there, then run again".into(),
        None => of_a_provider(&with_root_cause(error)).into(),
    }
}

/// Whether there was no room on the disk, or within a quota.
pub(crate) fn is_full(error: &object_store::Error) -> bool {
    of_kernel(error).is_some_and(causes::is_full)
}

/// What to do where a local file or folder cannot be had, to stand behind that; nothing where nothing is known.
pub(crate) fn next_step(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("; {MAY_NOT}"),
        _ => String::new(),
    }
}

fn of_a_folder(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ReadOnlyFilesystem => {
            "it is mounted read-only. After an error the kernel does that by itself: see dmesg, then mount it writable and \
             run again"
        }
        io::ErrorKind::PermissionDenied => MAY_NOT,
        _ => "check the disk and its mount (dmesg says more), then run again",
    }
}

fn of_a_provider(text: &str) -> &'static str {
    match text {
        _ if text.contains("RequestTimeTooSkewed") || text.contains("RequestExpired") => {
            "this machine's clock is wrong, or the store's: set it (NTP), then run again"
        }
        _ if names_instance(text) => "set the variables of the provider, then run again",
        _ => "check the connection, the credentials and free space, then run again",
    }
}

fn names_instance(text: &str) -> bool {
    INSTANCES.iter().any(|host| text.contains(host))
}

/// Whether credentials were asked for where a provider's machines find them, and nobody answered.
pub(crate) fn lacks_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    names_instance(&with_root_cause(error))
}

/// A provider's `Error` document in the middle of a text becomes its code and its message.
pub(crate) fn without_markup(text: &str) -> String {
    let shortened = text.split_once("<Error>").and_then(|(before, rest)| {
        let (error, after) = rest.split_once("</Error>")?;
        let before = before.split_once("<?xml").map_or(before, |(before, _)| before);
        let before = before.trim_end_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        let plain = |text| unescape(text).unwrap_or(Cow::Borrowed(text));
        let parts: Vec<Cow<'_, str>> =
            ["Code", "Message"].into_iter().filter_map(|name| element(error, name)).map(plain).collect();
        Some(format!("{before} {}{after}", parts.join(": ")))
    });
    let text = shortened.as_deref().unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text of the first XML element of this name that has no attributes.
pub(crate) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
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
        let quoted = "<Error><Code>InvalidDate</Code><Message>The &#39;Date&#39; is &lt;old&gt; &nbsp;</Message></Error>";
        assert_eq!(without_markup(quoted).trim(), "InvalidDate: The &#39;Date&#39; is &lt;old&gt; &nbsp;");
        assert_eq!(without_markup(&quoted.replace("&nbsp;", "")).trim(), "InvalidDate: The 'Date' is <old>");
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
        for host in INSTANCES {
            let asked = format!("Error performing PUT {host}/latest/api/token: no route to host");
            let error = object_store::Error::Generic { store: "S3", source: asked.into() };
            assert!(explain(&error).starts_with("no variable has credentials"));
            assert!(advice(&error).starts_with("set the variables"));
        }
        let other = object_store::Error::Generic { store: "S3", source: "no route to host".into() };
        assert_eq!(explain(&other), "Generic S3 error: no route to host");
    }

    #[test]
    fn what_to_do_depends_on_what_was_said() {
        let folder = |errno: i32| object_store::Error::Generic {
            store: FOLDER,
            source: io::Error::from_raw_os_error(errno).into(),
        };
        let cases =
            [(28, "full"), (122, "quota"), (30, "read-only"), (13, "owner of the folder"), (5, "dmesg")];
        for (errno, word) in cases {
            assert!(advice(&folder(errno)).contains(word), "{errno}: {}", advice(&folder(errno)));
        }
        let skewed =
            object_store::Error::Generic { store: "S3", source: "403: RequestTimeTooSkewed: x".into() };
        assert!(advice(&skewed).contains("clock"));
    }
}
