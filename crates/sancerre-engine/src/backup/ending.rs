//! A certificate that ends soon, said while there is time: the night after it ended nothing is saved any more.

use sancerre_advice::Verb::AddWriter;
use sancerre_format::names::{Time, Title};

use crate::keys::SignerKey;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::log::Log;

/// How long before its end a certificate is warned of: two weekends.
const SOON_SECONDS: i64 = 14 * 86_400;
const DAY: i64 = 86_400;

/// Warns when the certificate of who backs up ends soon, or before a backup as long as the machine's last one is over.
pub(super) fn warn_of_end(repository: &Repository, log: &Log, vm: &Title, monitor: &Monitor) {
    let Ok(writer) = repository.writer() else { return };
    let Some((expires, left)) = end_of(repository, writer) else { return };
    let last = log.latest(vm).map(|snapshot| {
        let fields = &snapshot.manifest.fields;
        fields.finished.unix_seconds().saturating_sub(fields.started.unix_seconds())
    });
    let ends_within = last.is_some_and(|seconds| left <= seconds);
    if left > SOON_SECONDS && !ends_within {
        return;
    }
    let during = match ends_within {
        true => format!(
            ", before this backup is over if it takes as long as the last one of {vm}: what begins in time is saved all \
             the same, but what comes after it may not begin"
        ),
        false => String::new(),
    };
    monitor.warn(Topic::Policy, format!(
        "the certificate of {writer} ends {} ({expires}){during}. After that nothing is saved from here: have the \
         administrator make a new key with {AddWriter}, and use that file here",
        in_words(left)
    ));
}

/// When a key ends, and in how many seconds. None for one that never ends; what has ended is refused, and not warned of.
fn end_of(repository: &Repository, writer: &SignerKey) -> Option<(Time, i64)> {
    let expires = writer.expires?;
    let left = expires.unix_seconds().saturating_sub(repository.host.clock.now().unix_seconds());
    (left >= 0).then_some((expires, left))
}

fn in_words(seconds: i64) -> String {
    match (seconds / DAY, seconds / 3600) {
        (0, 0) => "within the hour".into(),
        (0, 1) => "in an hour".into(),
        (0, hours) => format!("in {hours} hours"),
        (1, _) => "in a day".into(),
        (days, _) => format!("in {days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::{DAY, in_words};

    #[test]
    fn rest_of_a_certificate_in_words() {
        let told = [0, 3599, 3600, 7200, DAY, 13 * DAY + 5].map(in_words);
        let expected =
            ["within the hour", "within the hour", "in an hour", "in 2 hours", "in a day", "in 13 days"];
        assert_eq!(told, expected);
    }
}
