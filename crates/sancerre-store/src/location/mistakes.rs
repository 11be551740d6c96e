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
    let literal = || unseen(location).or_else(|| quoted(location)).or_else(|| assignment(location));
    odd().or_else(spaced).or_else(literal).or_else(|| match location.split_once("://") {
        Some((scheme, rest)) if !scheme.contains([':', '/']) => {
            of_url(location, &scheme.to_ascii_lowercase(), rest)
        }
        _ => of_path(&shown(location)),
    })
}

/// What is wrong with the path of another folder of this machine, such as that of a cache.
pub fn of_folder(path: &str) -> Option<String> {
    unseen(path).or_else(|| quoted(path)).or_else(|| of_path(path))
}

/// A letter that nobody sees, as copying from a page of the web leaves it.
fn unseen(text: &str) -> Option<String> {
    let is_unseen = |letter: &char| matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let letter = text.chars().find(is_unseen)?;
    let without: String = text.chars().filter(|letter| !is_unseen(letter)).collect();
    let without = shown(&without);
    Some(format!(
        "it has a character in it that cannot be seen (U+{:04X}): {without} is probably meant; type it anew",
        u32::from(letter)
    ))
}

/// Quotation marks that no shell took away: `docker --env-file` and units keep them.
fn quoted(text: &str) -> Option<String> {
    const MARKS: [char; 7] = ['"', '\'', '\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}', '\u{201e}'];
    let is_one = |letter: char| MARKS.contains(&letter);
    let (first, last) = (text.chars().next()?, text.chars().next_back()?);
    let meant = shown(text.trim_matches(is_one));
    (is_one(first) || is_one(last)).then(|| {
        format!(
            "the quotation marks around it would be a part of it: {meant} is probably meant, without them"
        )
    })
}

/// `NAME=value` where the value was to stand.
fn assignment(text: &str) -> Option<String> {
    let (name, value) = text.strip_prefix("export ").unwrap_or(text).split_once('=')?;
    let is_name = name.starts_with("SANCERRE_") || name == "RESTIC_REPOSITORY" || name == "BORG_REPO";
    let value = shown(value);
    is_name.then(|| {
        format!("the name of a variable stands before it: {value} is probably meant, without {name}=")
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
    // `user:password@host:path`, as other programs take it.
    let hidden = hidden.or_else(|| {
        let first = location.split('/').next().filter(|_| !location.contains("://"))?;
        let (user, host) = first.rsplit_once('@')?;
        let known = ["sftp:", "ssh:", "scp:", "rsync:"].into_iter().find(|word| user.starts_with(word));
        let word = known.unwrap_or_default();
        let (user, _) = user.strip_prefix(word)?.split_once(':')?;
        Some(format!("{word}{user}:***@{host}{}", location.get(first.len()..)?))
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
            if remote == path && rest.starts_with('/') && !word.contains('@') {
                return format!(
                    "this program speaks neither NFS nor SSH: mount it (mount -t nfs {remote} /mnt/backup, or sshfs {remote} \
                     /mnt/backup), and give the folder where it is mounted. {literal}"
                );
            }
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

/// A name that a shell, a unit or a batch file was to replace: `$HOME`, `${HOME}`, `$(…)`, `%h`, `%HOME%`, `%20`; or a
/// template: see [`template`].
fn unexpanded(path: &str) -> Option<String> {
    if let Some(name) = template(path) {
        return Some(name);
    }
    dollar(path).or_else(|| begun(path, '%', |next| next.is_ascii_alphanumeric() || next == '%'))
}

/// A variable of a shell.
fn dollar(path: &str) -> Option<String> {
    begun(path, '$', |next| next.is_ascii_alphabetic() || "_{(".contains(next))
}

/// What follows a sign up to the next slash, if it goes on so.
fn begun(path: &str, sign: char, next: fn(char) -> bool) -> Option<String> {
    let mut found = path.match_indices(sign).filter_map(|(at, _)| path.get(at..));
    let rest = found.find(|rest| rest.chars().nth(1).is_some_and(next))?;
    Some(rest.split('/').next().unwrap_or_default().to_owned())
}

/// A part that a template or a person was to replace: a command in backquotes, `{{ repo }}`, `<repo>`, `__REPO__`, `@REPO@`,
/// and a `~` behind the first slash.
fn template(path: &str) -> Option<String> {
    if path.contains('`') {
        return Some("command in backquotes".into());
    }
    if let Some((_, rest)) = path.split_once("{{") {
        return Some(format!("{{{{{}}}}}", rest.split_once("}}").map_or(rest, |(name, _)| name)));
    }
    let is_between = |part: &str, open: &str, close: &str| {
        let name = part.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        name.is_some_and(|name| {
            !name.is_empty()
                && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_- .".contains(letter))
        })
    };
    let is_template = |part: &&str| {
        (*part == "~" && !path.starts_with("./"))
            || [("<", ">"), ("__", "__"), ("@", "@")]
                .iter()
                .any(|(open, close)| is_between(part, open, close))
    };
    path.split('/').find(is_template).map(str::to_owned)
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
    if !matches!(scheme, "file" | "s3" | "gs" | "az") {
        return Some(of_scheme(scheme, authority, path, rest));
    }
    // A `file://` URL is how whoever has a folder of such a name says so.
    let of_template = || template(rest).filter(|_| scheme != "file");
    if let Some(name) = dollar(rest).or_else(of_template) {
        return Some(format!("nothing replaced the {name} in it: write what it stands for"));
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

/// What is meant by a URL of a kind that is none here.
fn of_scheme(scheme: &str, authority: &str, path: &str, rest: &str) -> String {
    match scheme {
        "gcs" => format!("gs://{rest} is probably meant"),
        "azure" | "abs" => format!("az://{rest} is probably meant"),
        "s3a" | "s3n" => format!("s3://{rest} is probably meant"),
        "http" | "https" if authority.ends_with(AMAZON) && !authority.contains('@') => {
            of_amazon(authority, path)
        }
        "http" | "https" => {
            let bucket = path.trim_start_matches('/');
            format!(
                "for a server that speaks S3 give s3://{} and set AWS_ENDPOINT={scheme}://{}",
                if bucket.is_empty() { "BUCKET" } else { bucket },
                authority.rsplit('@').next().unwrap_or_default()
            )
        }
        _ => SCHEMES.to_owned(),
    }
}

const AMAZON: &str = ".amazonaws.com";

/// What a browser calls a bucket of Amazon: `bucket.s3.region.amazonaws.com/prefix`, or the bucket behind the first slash.
fn of_amazon(host: &str, path: &str) -> String {
    let labels: Vec<&str> = host.strip_suffix(AMAZON).unwrap_or(host).split('.').collect();
    let at =
        labels.iter().position(|label| *label == "s3" || label.starts_with("s3-")).unwrap_or(labels.len());
    let bucket = labels.get(..at).unwrap_or_default().join(".");
    let url = match bucket.is_empty() {
        true => format!("s3:/{path}"),
        false => format!("s3://{bucket}{path}"),
    };
    match labels.get(at.saturating_add(1)) {
        Some(region) => format!("{url} with AWS_REGION={region} is probably meant"),
        None => format!("{url} with AWS_REGION is probably meant"),
    }
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
mod tests;
