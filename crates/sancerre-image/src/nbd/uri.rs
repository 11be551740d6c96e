//! Addresses of exports, as `doc/uri.md` of the protocol's project has them.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::error::{Fault, NbdError};
use super::wire::NAME_BYTES_MAX;

/// The port of NBD.
const PORT: u16 = 10809;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and port.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// The address of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdUri {
    text: String,
    pub(super) address: Address,
    pub(super) is_encrypted: bool,
    pub(super) export: String,
}

impl NbdUri {
    /// Whether `text` begins as an address of an export does.
    pub fn is_one(text: &str) -> bool {
        scheme(text).is_some()
    }

    /// Reads `nbd://HOST[:PORT][/EXPORT]`, `nbds://…`, `nbd+unix:///EXPORT?socket=PATH` or `nbds+unix://…`.
    ///
    /// # Errors
    /// [`Fault::Uri`] saying which part makes no sense. What is not known is not passed over.
    pub fn parse(text: &str) -> Result<Self, NbdError> {
        parse(text).map_err(|problem| Fault::Uri(problem).at(&text.escape_debug().to_string()))
    }

    /// The export `name` behind a unix socket.
    pub fn unix(socket: PathBuf, name: &str) -> Self {
        let text = format!("nbd+unix:///{}?socket={}", name.escape_debug(), socket.display());
        Self { text, address: Address::Unix(socket), is_encrypted: false, export: name.to_owned() }
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether it is encrypted, whether it goes to a unix socket, and the rest.
fn scheme(text: &str) -> Option<(bool, bool, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme {
        "nbd" => Some((false, false, rest)),
        "nbds" => Some((true, false, rest)),
        "nbd+unix" => Some((false, true, rest)),
        "nbds+unix" => Some((true, true, rest)),
        _ => None,
    }
}

fn parse(text: &str) -> Result<NbdUri, &'static str> {
    let (is_encrypted, is_unix, rest) = scheme(text).ok_or("it does not begin with nbd:// or a relative")?;
    if rest.contains('#') {
        return Err("it has a fragment (write # in a name as %23)");
    }
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let export = String::from_utf8(decode(path)?).map_err(|_| "the name of the export is no UTF-8")?;
    if export.len() > NAME_BYTES_MAX || export.contains('\0') {
        return Err("the name of the export is too long or has a zero byte");
    }
    let socket = query.map(socket).transpose()?;
    let address = match (is_unix, socket) {
        (true, Some(path)) if authority.is_empty() => Address::Unix(path),
        (true, Some(_)) => return Err("a unix socket has no host: three slashes"),
        (true, None) => return Err("the socket is missing"),
        (false, None) => tcp(authority)?,
        (false, Some(_)) => return Err("a socket goes with nbd+unix://"),
    };
    Ok(NbdUri { text: text.to_owned(), address, is_encrypted, export })
}

fn socket(query: &str) -> Result<PathBuf, &'static str> {
    let path = query.strip_prefix("socket=").filter(|path| !path.contains('&'));
    let path = path.ok_or("the only thing that may follow ? is socket=PATH")?;
    let path = decode(path)?;
    if path.is_empty() || path.contains(&0) {
        return Err("the socket is missing");
    }
    Ok(PathBuf::from(OsString::from_vec(path)))
}

fn tcp(authority: &str) -> Result<Address, &'static str> {
    if authority.contains('@') {
        return Err("it has a user, whom only TLS by password knows: that is not supported");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("a bracket is open")?;
            let port =
                if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or("what follows ]?")?) };
            (host, port)
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let host = String::from_utf8(decode(host)?).map_err(|_| "the host is no UTF-8")?;
    if host.is_empty() || host.contains('\0') {
        return Err("the host is missing");
    }
    let port = match port {
        None => PORT,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("the port is no number of a port")?,
    };
    Ok(Address::Tcp { host, port })
}

fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    const PROBLEM: &str = "a % is not followed by two hexadecimal digits";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = tail.split_first_chunk::<2>().ok_or(PROBLEM)?;
        let digits =
            std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        bytes.push(digits.and_then(|text| u8::from_str_radix(text, 16).ok()).ok_or(PROBLEM)?);
        rest = tail;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Address, NbdUri};

    #[test]
    fn addresses_are_read_as_the_protocol_writes_them() {
        let tcp = |host: &str, port| Address::Tcp { host: host.to_owned(), port };
        for (text, address, export, is_encrypted) in [
            ("nbd://h.example", tcp("h.example", 10809), "", false),
            ("nbd://h.example/", tcp("h.example", 10809), "", false),
            ("nbds://h.example:99/a%20b/c", tcp("h.example", 99), "a b/c", true),
            ("nbd://[::1]:7/vda", tcp("::1", 7), "vda", false),
            ("nbd://[::1]", tcp("::1", 10809), "", false),
            ("nbd+unix:///?socket=/run/a%3fb", Address::Unix("/run/a?b".into()), "", false),
            ("nbds+unix:///vda?socket=rel", Address::Unix("rel".into()), "vda", true),
        ] {
            let uri = NbdUri::parse(text).unwrap();
            let seen = (uri.address.clone(), uri.export.as_str(), uri.is_encrypted);
            assert_eq!(seen, (address, export, is_encrypted), "{text}");
            assert_eq!(uri.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            "nbd:",
            "http://h.example",
            "nbd://",
            "nbd:///x",
            "nbd://h:0",
            "nbd://h:x",
            "nbd://h:70000",
            "nbd://u@h",
            "nbd://[::1",
            "nbd://[::1]x",
            "nbd://h/%zz",
            "nbd://h/%4",
            "nbd://h/%ff",
            "nbd://h/%00",
            "nbd://h/?socket=/a",
            "nbd+unix:///x",
            "nbd+unix://h/x?socket=/a",
            "nbd+unix:///?socket=",
            "nbd+unix:///?socket=/a&tls=1",
            "nbd://h?tls-psk-file=x",
            "nbd://h/x#y",
            "nbd://h/%+1",
        ] {
            let error = NbdUri::parse(text).unwrap_err().to_string();
            assert!(error.contains("the form is nbd://HOST"), "{text}: {error}");
        }
        assert!(NbdUri::parse(&format!("nbd://h/{}", "x".repeat(4097))).is_err());
        assert!(NbdUri::is_one("nbds://h") && !NbdUri::is_one("/dev/nbd0") && !NbdUri::is_one("nbd.raw"));
    }
}
