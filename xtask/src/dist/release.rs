//! Which version is made, of which commit, when.

use crate::shell;
use anyhow::{Context, Result, ensure};

/// What every file of a release says about itself.
#[derive(Clone, Debug)]
pub(super) struct Release {
    /// That of `Cargo.toml` on a commit with that tag, else one before it that names the day and the commit.
    pub(super) version: String,
    /// When the commit was made, in seconds since 1970.
    pub(super) epoch_seconds: u64,
    /// The same in the forms of CycloneDX and of Debian's changelog.
    pub(super) time_iso: String,
    pub(super) time_mail: String,
    /// Who made the commit: name and address.
    pub(super) maintainer: String,
    /// Whether the files are those of the commit.
    pub(super) is_clean: bool,
}

impl Release {
    /// Of the commit that is checked out.
    pub(super) fn of_head() -> Result<Self> {
        let of_commit = |format: &str, date: &str| {
            let (format, date) = (format!("--format={format}"), format!("--date=format-local:{date}"));
            let mut command = shell::command("git", &["log", "-1", &format, &date]);
            command.env("TZ", "UTC").env("LC_ALL", "C");
            shell::output(command).map(|text| text.trim().to_owned())
        };
        let tags = shell::output(shell::command("git", &["tag", "--points-at", "HEAD"]))?;
        let state = shell::output(shell::command("git", &["status", "--porcelain"]))?;
        let (day, commit) = (of_commit("%cd", "%Y%m%d")?, of_commit("%H", "%s")?);
        let commit = commit.get(..12).context("git names no commit")?;
        let epoch = of_commit("%ct", "%s")?;
        Ok(Self {
            version: version(env!("CARGO_PKG_VERSION"), &tags, &day, commit),
            epoch_seconds: epoch.parse().with_context(|| format!("git says {epoch} for a time"))?,
            time_iso: of_commit("%cd", "%Y-%m-%dT%H:%M:%SZ")?,
            time_mail: of_commit("%cd", "%a, %d %b %Y %H:%M:%S +0000")?,
            maintainer: maintainer(&of_commit("%cn <%ce>", "%s")?)?,
            is_clean: state.is_empty(),
        })
    }

    /// The version of the Debian package: the first one made of this version.
    pub(super) fn deb_version(&self) -> String {
        format!("{}-1", self.version)
    }
}

/// `~` sorts before everything, so a release replaces what was made on the way to it.
fn version(ours: &str, tags: &str, day: &str, commit: &str) -> String {
    let is_release = tags.lines().any(|tag| tag.strip_prefix('v') == Some(ours));
    if is_release { ours.to_owned() } else { format!("{ours}~git{day}.{commit}") }
}

fn maintainer(committer: &str) -> Result<String> {
    let is_whole = committer.contains('@') && !committer.starts_with('<') && committer.ends_with('>');
    ensure!(is_whole, "dist: the committer `{committer}` has no name or no address; packages need both");
    Ok(committer.to_owned())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn only_the_tag_of_this_version_makes_a_release() {
        assert_eq!(version("0.2.0", "other\nv0.2.0\n", "20260101", "abc"), "0.2.0");
        assert_eq!(version("0.2.0", "v0.1.0\n0.2.0\n", "20260101", "abc"), "0.2.0~git20260101.abc");
    }
}
