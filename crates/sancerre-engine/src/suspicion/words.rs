//! Why, in one sentence: what an administrator reads at three in the morning.

use sancerre_advice::Verb::{Clean, Clear, Explain};

use super::extent::Counts;
use super::verdict::{Judgement, Sign, Suspicion};

/// One sentence; none for a normal night.
pub fn why(judgement: &Judgement, night: &Counts) -> Option<String> {
    let strongest = judgement.signs.first()?;
    let more = judgement.signs.get(1..).unwrap_or_default();
    let mut sentence = tell(*strongest, night);
    if let Some(second) = more.first() {
        sentence = format!("{sentence}; also, {}", tell(*second, night));
    }
    Some(sentence)
}

/// What to do, once it was said what there is; none for a normal night.
pub fn advice(verdict: Suspicion) -> Option<String> {
    match verdict {
        Suspicion::Normal => None,
        Suspicion::Unusual => Some(format!("if nobody knows why, look at {Explain} of this snapshot")),
        Suspicion::Suspect => Some(format!(
            "look at the machine before anything else is written to it; {Clean} names the newest night before, and {Explain} \
             says where on the disk. Snapshots from before are not let go until {Clear}"
        )),
    }
}

fn tell(sign: Sign, night: &Counts) -> String {
    let Counts { lost, covered, vanished, headless, files_before, pages_lost, pages_before, .. } = night;
    let share = percent(night.changed, night.data);
    let random = percent(night.random, night.changed);
    match sign {
        Sign::LostFiles => format!(
            "the starts of {lost} of {files_before} known files became random where they stood, which is what encryption in place looks like"
        ),
        Sign::LostPages => format!(
            "{pages_lost} of {pages_before} pages of databases became random where they stood, which is what encryption in place looks like"
        ),
        Sign::WholeDisk => format!(
            "{random} of what changed is random and {covered} of {files_before} known files are written over, which is what switching on encryption of the \
             whole disk looks like, or filling it with random data"
        ),
        Sign::Flood => format!(
            "{share} of the disk changed, nearly none of it was known, and {random} of it is random: far more than on its other nights"
        ),
        Sign::FewLost => format!(
            "the starts of {lost} of {files_before} known files and of {pages_lost} of {pages_before} pages of databases became random where they stood"
        ),
        Sign::Headless => format!("{headless} new files are random from their first byte"),
        Sign::Vanished => format!("{vanished} of {files_before} known files vanished, more than usual"),
        Sign::Covered => format!("{covered} of {files_before} known files were written over by random data"),
        Sign::Change => format!("{share} of the disk changed, more than usual"),
        Sign::Random => format!("{random} of what changed is random, more than usual"),
        Sign::Dense => format!(
            "what was new could be compressed to {} of its size only, less than usual",
            percent(night.coded_bytes, night.new_bytes)
        ),
        Sign::Blind => {
            "the snapshot before this one has no statistics that could be compared with, though earlier ones have".into()
        },
        Sign::Contradiction => "the statistics do not agree with what the snapshot says of itself".into(),
    }
}

fn percent(part: u64, whole: u64) -> String {
    let tenths = part.saturating_mul(1000).checked_div(whole).unwrap_or(0);
    match tenths {
        0..100 => format!("{}.{}%", tenths / 10, tenths % 10),
        _ => format!("{}%", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::{Past, judge};
    use super::*;

    #[test]
    fn a_suspect_night_says_what_it_looks_like_and_no_more() {
        let night = Counts { data: 1000, changed: 500, files_before: 1173, lost: 1173, ..Counts::default() };
        let judgement = judge(&night, &Past::default());
        let sentence = why(&judgement, &night).unwrap();
        assert!(sentence.starts_with("the starts of 1173 of 1173 known files"), "{sentence}");
        assert!(!sentence.contains("infected"));
        assert!(advice(judgement.verdict).unwrap().contains("`clean`"));
        assert_eq!(why(&Judgement::default(), &night), None);
    }

    #[test]
    fn shares_are_told_with_one_digit_where_they_are_small() {
        let told = [(0, 0), (1, 1000), (15, 1000), (99, 1000), (100, 1000), (1000, 1000)];
        let told = told.map(|(part, whole)| percent(part, whole));
        assert_eq!(told, ["0.0%", "0.1%", "1.5%", "9.9%", "10%", "100%"]);
    }
}
