//! Index segments: a damaged one costs nothing but deduplication.

use sancerre_advice::Verb::RebuildIndex;
use sancerre_format::FormatError;
use sancerre_format::index::SegmentName;

use super::report::Severity;
use super::run::{Run, tolerate};
use crate::error::Result;
use crate::index::{Whole, key_of, segments};

/// Verifies every segment, one after the other; nothing without the zone's secrets, for no snapshot needs it.
pub(super) async fn check(run: &mut Run<'_>) -> Result<()> {
    if run.repository.keys.zone_secrets().is_err() {
        return Ok(());
    }
    for name in segments(run.repository, &run.log).await?.into_keys() {
        run.monitor.check()?;
        let key = key_of(run.repository, &run.log, name)?;
        let problem = match run.repository.store.get(&key).await {
            Ok(None) => continue,
            Ok(Some(bytes)) => verify(run, name, &bytes).err().map(|error| error.to_string()),
            Err(error) => Some(tolerate(run.repository, error).await?),
        };
        if let Some(problem) = problem {
            let problem = format!(
                "{problem}; no snapshot needs it, but known data is stored again: {RebuildIndex} makes a new one"
            );
            // One of a session that came to nothing nobody hears any more.
            let is_heard = run.log.entry(name.session).is_some_and(|entry| entry.announced().is_some());
            let severity = if is_heard { Severity::Damaged } else { Severity::Note };
            run.findings.blame(&key, severity, problem);
        }
    }
    Ok(())
}

fn verify(run: &Run<'_>, name: SegmentName, bytes: &[u8]) -> std::result::Result<(), FormatError> {
    let Some(segment) = Whole::decode(run.repository, &run.log, name, bytes)? else { return Ok(()) };
    let pages = segment.reader.pages(&segment.sealed).enumerate();
    for (number, page) in pages {
        segment.reader.check_filter(number, &page?)?;
    }
    Ok(())
}
