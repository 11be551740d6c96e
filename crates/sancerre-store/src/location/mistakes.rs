//! Locations that mean something else than they would do here: those of other programs, names that a shell was to
//! replace, shares of other systems, and parts of URLs that would be dropped in silence.
//!
//! Each would be a folder on this machine, or another place than was meant, and somebody would believe that his backups
//! are elsewhere. Whoever does have a folder with such a name can say so: behind `./`, or as a `file://` URL.

use std::borrow::Cow;
use std::path::Path;

use url::Url;

/// What may stand before `://`.
const SCHEMES: &str = "give a path, or a file://, s3://, gs:// or az:// URL";

/// What is wrong with a location, and what was probably meant.
pub(super) fn find(location: &str) -> Option<String> {
    let odd = || {
        location
            .chars()
            .any(char::is_control)
            .then(|| "it has a line end or another control character in it".into())
    };
    let spaced = || {
        (location.trim() != location).then(|| "there are spaces before or behind it: leave them out".into())
    };
    odd().or_else(spaced).or_else(|| match location.split_once("://") {
        Some((scheme, rest)) if !scheme.contains([':', '/']) => {
            of_url(location, &scheme.to_ascii_lowercase(), rest)
        }
        _ => of_path(&shown(location)),
    })
}

/// A location as it may be shown: what stands before an `@` may be a password.
pub(super) fn shown(location: &str) -> Cow<'_, str> {
    let hidden = location.split_once("://").and_then(|(scheme, rest)| {
        let authority = rest.split('/').next().unwrap_or_default();
        let (_, host) = authority.rsplit_once('@')?;
        let after = rest.get(authority.len()..)?;
        Some(format!("{scheme}://***@{host}{after}"))
    });
    hidden.map_or(Cow::Borrowed(location), Cow::Owned)
}

fn of_path(path: &str) -> Option<String> {
    let first = path.split('/').next().unwrap_or_default();
    if first.starts_with('~') {
        let rest = path.strip_prefix(first).unwrap_or_default();
        return Some(format!(
            "no shell replaced the {first} here: write the whole path, such as /home/NAME{rest}. A folder of that very \
             name is ./{path}"
        ));
    }
    if path.contains('\\') {
        return Some(of_windows(path));
    }
    if path.starts_with("//") {
        return Some(format!(
            "that is a share: mount it (mount -t cifs {path} /mnt/backup), and give the folder where it is mounted"
        ));
    }
    if let Some((word, rest)) = first.split_once(':') {
        let rest = path.strip_prefix(first).map(|after| format!("{rest}{after}")).unwrap_or_default();
        return Some(of_word(path, word, &rest));
    }
    let name = unexpanded(path)?;
    Some(format!(
        "nothing replaced the {name} in it: write what it stands for. A folder of that very name is {}",
        as_url(path)
    ))
}

fn of_windows(path: &str) -> String {
    match path.strip_prefix("\\\\") {
        Some(share) => format!(
            "that is a share of Windows: mount it (mount -t cifs //{} /mnt/backup), and give the folder where it is mounted",
            share.replace('\\', "/")
        ),
        None => format!(
            "folders here are separated by /, not by \\. A folder of that very name is {}",
            as_url(path)
        ),
    }
}

/// A word and a colon before the first slash.
fn of_word(path: &str, word: &str, rest: &str) -> String {
    let literal = format!("A folder of that very name is ./{path}");
    let bucket =
        |rest: &str| rest.replacen(':', "/", 1).replace("//", "/").trim_start_matches('/').to_owned();
    match word.to_ascii_lowercase().as_str() {
        "s3" => format!("{} is probably meant. {literal}", s3(rest)),
        "gs" | "gcs" => format!("gs://{} is probably meant. {literal}", bucket(rest)),
        "az" | "azure" | "abs" => format!("az://{} is probably meant. {literal}", bucket(rest)),
        "b2" => format!(
            "Backblaze speaks S3: s3://{} with AWS_ENDPOINT set is probably meant. {literal}",
            bucket(rest)
        ),
        "file" | "local" if rest.starts_with('/') => {
            format!("file:///{} is probably meant. {literal}", rest.trim_start_matches('/'))
        }
        "file" | "local" => format!("the path alone, {rest}, is probably meant. {literal}"),
        "rclone" => format!(
            "this program does not run rclone: mount it (rclone mount {rest} /mnt/backup), or use the provider's S3. {literal}"
        ),
        "rest" | "http" | "https" | "swift" | "webdav" | "dav" | "ftp" | "smb" | "cifs" | "nfs" => {
            format!("{word} is not supported: {SCHEMES}. {literal}")
        }
        one if one.len() == 1 && one.chars().all(char::is_alphabetic) => {
            format!("that is a drive of Windows: {SCHEMES}. {literal}")
        }
        _ => {
            let remote = match word.to_ascii_lowercase().as_str() {
                "sftp" | "ssh" | "scp" | "rsync" => rest,
                _ => path,
            };
            format!(
                "this program does not speak SSH: mount it (sshfs {remote} /mnt/backup), and give the folder where it is \
                 mounted. {literal}"
            )
        }
    }
}

/// `s3:` as other programs write it: with or without the server before the bucket.
fn s3(rest: &str) -> String {
    let (scheme, plain) = match rest.split_once("://") {
        Some((scheme, plain)) => (scheme, plain),
        None => ("https", rest.trim_start_matches('/')),
    };
    match plain.split_once('/') {
        Some((server, bucket)) if server.contains(['.', ':']) || rest.contains("://") => {
            format!("s3://{bucket} with AWS_ENDPOINT={scheme}://{server}")
        }
        _ => format!("s3://{plain}"),
    }
}

/// A name that a shell, a unit or a batch file was to replace: `$HOME`, `${HOME}`, `$(…)`, `%h`, `%HOME%`, `%20`.
fn unexpanded(path: &str) -> Option<String> {
    let begins = |sign: char, next: fn(char) -> bool| {
        path.match_indices(sign)
            .filter_map(|(at, _)| path.get(at..))
            .find(|rest| rest.chars().nth(1).is_some_and(next))
    };
    let name = |rest: &str| rest.split('/').next().unwrap_or_default().to_owned();
    let dollar = begins('$', |next| next.is_ascii_alphabetic() || "_{(".contains(next));
    dollar.or_else(|| begins('%', |next| next.is_ascii_alphanumeric() || next == '%')).map(name)
}

/// The URL of a folder of this very name.
fn as_url(path: &str) -> String {
    let url = std::path::absolute(Path::new(path)).ok().and_then(|path| Url::from_file_path(path).ok());
    url.map_or_else(|| "a file:// URL".to_owned(), |url| url.as_str().replace('$', "%24"))
}

fn of_url(location: &str, scheme: &str, rest: &str) -> Option<String> {
    let authority = rest.split('/').next().unwrap_or_default();
    let path = rest.get(authority.len()..).unwrap_or_default();
    let is_dots = |part: &str| [".", ".."].contains(&part.to_ascii_lowercase().replace("%2e", ".").as_str());
    match scheme {
        "file" | "s3" | "gs" | "az" => {}
        "http" | "https" => {
            let bucket = path.trim_start_matches('/');
            return Some(format!(
                "for a server that speaks S3 give s3://{} and set AWS_ENDPOINT={scheme}://{}",
                if bucket.is_empty() { "BUCKET" } else { bucket },
                authority.rsplit('@').next().unwrap_or_default()
            ));
        }
        _ => return Some(SCHEMES.to_owned()),
    }
    let dropped = match () {
        () if rest.contains('\\') => "folders are separated by /, not by \\",
        () if rest.contains('?') => {
            "what follows the ? would be dropped: settings go into the provider's variables (docs/STORES.md)"
        }
        () if rest.contains('#') => {
            "what follows the # would be dropped; where it is part of a name, write %23"
        }
        () if authority.contains('@') => {
            "names and passwords are not taken from it: they go into the provider's variables (docs/STORES.md)"
        }
        () if path.split('/').any(is_dots) => {
            "a . or .. in it would be dropped: write the path that is meant"
        }
        () if path.contains("//") && scheme != "file" => {
            "an empty part (//) in it would be dropped: write it without"
        }
        () if scheme == "file" => return of_file(location, authority, path),
        () if authority.is_empty() => "the name of the bucket is missing: write it behind the two slashes",
        () if authority.contains(':') => {
            "a port has no place in it: the server goes into the variable of the endpoint, such as AWS_ENDPOINT"
        }
        () if scheme == "s3" && is_endpoint(authority) => {
            "that is the name of a server and not of a bucket: s3://BUCKET/PREFIX, and AWS_REGION or AWS_ENDPOINT"
        }
        () => return None,
    };
    Some(dropped.to_owned())
}

fn is_endpoint(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".amazonaws.com") || host.parse::<std::net::Ipv4Addr>().is_ok()
}

fn of_file(location: &str, host: &str, path: &str) -> Option<String> {
    match host {
        "" | "localhost" if path.trim_matches('/').is_empty() => Some("the path is missing".into()),
        "" if path.starts_with("//") => Some(format!(
            "there are too many slashes: file:///{} is probably meant",
            path.trim_start_matches('/')
        )),
        "" | "localhost" => None,
        "~" | "." | ".." => Some("a file:// URL has a whole path, such as file:///srv/backup".into()),
        _ => Some(format!(
            "it names a machine, {host}: a path on this one has three slashes, file:///{host}{path}; of another machine's \
             mount it, and give the folder where it is mounted (not {location})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_programs_call_a_place_is_refused_with_what_was_meant() {
        let cases = [
            ("sftp:user@host:/srv/x", "sshfs user@host:/srv/x"),
            ("user@host:/srv/x", "sshfs user@host:/srv/x"),
            ("host:/srv/x", "sshfs host:/srv/x"),
            ("host:x", "sshfs host:x"),
            ("[::1]:/x", "SSH"),
            ("s3:bucket/x", "s3://bucket/x is"),
            ("s3:https://minio:9000/bucket/x", "s3://bucket/x with AWS_ENDPOINT=https://minio:9000"),
            ("s3:s3.amazonaws.com/bucket/x", "s3://bucket/x with AWS_ENDPOINT=https://s3.amazonaws.com"),
            ("S3:bucket", "s3://bucket is"),
            ("b2:bucket:x", "s3://bucket/x with"),
            ("gs:bucket:/x", "gs://bucket/x"),
            ("azure:box:/x", "az://box/x"),
            ("rclone:remote:x", "rclone mount remote:x"),
            ("rest:http://me:secret@host:8000/", "not supported"),
            ("s3:http://me:secret@minio/bucket/x", "s3://bucket/x with AWS_ENDPOINT=http://"),
            ("swift:box:/x", "not supported"),
            ("file:rel", "the path alone, rel,"),
            ("file:/srv/x", "file:///srv/x"),
            ("C:/backup", "drive of Windows"),
            ("C:\\backup", "separated by /"),
            ("\\\\nas\\share", "mount -t cifs //nas/share"),
            ("//nas/share", "mount -t cifs //nas/share"),
        ];
        for (location, meant) in cases {
            let found = find(location).unwrap_or_else(|| panic!("{location} was taken"));
            assert!(found.contains(meant) && !found.contains("secret"), "{location}: {found}");
        }
    }

    #[test]
    fn what_nothing_replaced_is_refused() {
        for location in [
            "~",
            "~/backup",
            "~root/x",
            "$HOME/backup",
            "${HOME}/x",
            "/srv/$(hostname)/x",
            "/srv/$HOST",
            "%h/backup",
            "/srv/%H",
            "%USERPROFILE%/x",
            "/srv/my%20backup",
            "/srv/%%",
            " /srv/x",
            "/srv/x\n",
            "/srv/x\r",
        ] {
            assert!(find(location).is_some(), "{location:?}");
        }
    }

    #[test]
    fn what_would_be_dropped_is_refused() {
        for location in [
            "s3://bucket/x?region=y",
            "s3://bucket/x#y",
            "s3://bucket/a/../b",
            "s3://bucket/a/%2E%2e/b",
            "s3://bucket/./b",
            "s3://key:secret@bucket/x",
            "s3://bucket:9000/x",
            "s3://bucket//x",
            "s3:///x",
            "s3://",
            "s3://localhost/b",
            "s3://s3.eu-central-1.amazonaws.com/b",
            "s3://10.0.0.1/b",
            "s3://https://h/b",
            "file://rel/x",
            "file:///srv/../x",
            "file:///",
            "file:////nas/share",
            "file:///a?b",
            "file:///a#b",
            "https://host/bucket",
            "sftp://host/x",
            "ssh://host/x",
            "rclone://x/y",
            "s3a://bucket/x",
            "s3://bucket\\x",
        ] {
            assert!(find(location).is_some(), "{location}");
        }
    }

    #[test]
    fn what_is_a_place_here_is_taken() {
        for location in [
            "/srv/backup",
            "backup",
            ".",
            "..",
            "../x",
            "./a:b",
            "./~/backup",
            "/srv/a:b",
            "/srv/50%",
            "/srv/100% sure",
            "/srv/a$",
            "/srv/a$ b",
            "/srv//x",
            "s3://bucket",
            "s3://bucket/x/y",
            "s3://bucket.example/",
            "gs://b/x",
            "az://b/x",
            "file:///srv/x",
            "file://localhost/srv/x",
            "file:///srv/%24HOME",
            "S3://bucket/x",
            "/srv/~x",
            "/a/-b",
        ] {
            assert_eq!(find(location), None, "{location}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(shown("s3://key:secret@bucket/x"), "s3://***@bucket/x");
        assert_eq!(shown("s3://key:sec@ret@bucket"), "s3://***@bucket");
        for plain in ["/srv/a@b", "s3://bucket/a@b", "user@host:/x"] {
            assert_eq!(shown(plain), plain);
        }
    }
}
