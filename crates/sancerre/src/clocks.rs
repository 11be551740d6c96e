//! Whether the clock of the store and this machine's agree. Buckets refuse requests from a wrong time; a share or a disk
//! takes them and notes its own time. Then no rule of `forget` counts what was saved, and `gc` takes living backups for
//! dead, or dead ones for living.

use sancerre_engine::repository::Repository;
use sancerre_format::names::Time;

use crate::command::Context;
use crate::units::age;

/// What is no matter: as much as `forget` and `gc` can stand, and less than anybody sets by mistake.
const SLACK_SECONDS: i64 = 5 * 60;

/// At most so far apart the two clocks are read.
const READ_APART_SECONDS: u64 = 30;

/// Warns when objects that this command wrote since `began` have another time in the store.
///
/// Whatever keeps it from being known keeps nothing else from being done.
pub(crate) async fn compare(context: &Context, repository: &Repository, keys: &[String], began: Time) {
    if repository.store.is_remote() {
        return;
    }
    let (began, now) = (began.unix_seconds(), context.host.clock.now().unix_seconds());
    for key in keys {
        let Ok(Some(written)) = repository.store.written_at(key).await else { continue };
        if let Some(words) = difference(written.unix_seconds(), began, now) {
            context.output.warning(&format!(
                "{words}: the rules of `forget` count no snapshot whose times differ, and `gc` cannot tell living backups \
                 from dead ones; set both clocks (NTP)"
            ));
            return;
        }
    }
}

/// In words, how far a time lies outside of those in which it was taken.
fn difference(written: i64, began: i64, now: i64) -> Option<String> {
    // Hours are cut off: 2:59:59 is three.
    let apart = |seconds: i64| age(seconds.unsigned_abs().saturating_add(READ_APART_SECONDS));
    let (behind, ahead) = (began.saturating_sub(written), written.saturating_sub(now));
    if behind > SLACK_SECONDS {
        Some(format!("the store's clock is {} behind this machine's", apart(behind)))
    } else if ahead > SLACK_SECONDS {
        Some(format!("the store's clock is {} ahead of this machine's", apart(ahead)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_told_and_others_are_not() {
        for written in [1000, 1500, 2000, 1000 - SLACK_SECONDS, 2000 + SLACK_SECONDS] {
            assert_eq!(difference(written, 1000, 2000), None, "{written}");
        }
        assert_eq!(
            difference(1000 - 7200, 1000, 2000).unwrap(),
            "the store's clock is 2 h behind this machine's"
        );
        assert_eq!(
            difference(2000 + 7199, 1000, 2000).unwrap(),
            "the store's clock is 2 h ahead of this machine's"
        );
    }
}
