//! The verdict on one night of one disk. Pure: numbers of this night and of the nights before.

use std::fmt;

use super::extent::Counts;

/// What is thought of a night. It never says what happened, only how it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Suspicion {
    /// As other nights.
    #[default]
    Normal,
    /// Unlike other nights: somebody should know why.
    Unusual,
    /// As a night on which somebody encrypted what was there.
    Suspect,
}

impl Suspicion {
    /// The word of the disk line, and for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Unusual => "unusual",
            Self::Suspect => "suspect",
        }
    }

    /// The same back.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Normal, Self::Unusual, Self::Suspect].into_iter().find(|verdict| verdict.word() == word)
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// From which numbers on. The table of docs/SUSPICION.md is this one.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// Files lost where they stood, at least: suspect.
    pub lost_files: u64,
    /// The same as a share of all files, in parts of a thousand.
    pub lost_per_mille: u64,
    /// Pages of databases lost where they stood, at least: suspect.
    pub lost_pages: u64,
    /// The same as a share of all pages, in parts of ten thousand.
    pub pages_per_myriad: u64,
    /// Files that were written over, of all, in per cent, where most of the disk became random: encryption of the disk.
    pub covered_percent: u64,
    /// Files that vanished, were written over, or are random from their first byte, at least: unusual.
    pub few: u64,
    /// The same as a share of all files, in parts of a thousand, while fewer nights are known than say what is usual.
    pub few_per_mille: u64,
    /// Nights that are looked at.
    pub nights: usize,
    /// Nights before which nothing is called far from usual.
    pub least_nights: usize,
    /// How far is unusual, in median absolute deviations.
    pub unusual_deviations: u64,
    /// How far, in all three of change, novelty and randomness, is suspect.
    pub suspect_deviations: u64,
    /// What new bytes must be compressed to at least to be called dense, in parts of a thousand.
    pub dense_per_mille: u64,
    /// Random bytes below which a night is not far from usual, in blocks.
    pub least_random: u64,
}

/// The thresholds in use.
pub const THRESHOLDS: Thresholds = Thresholds {
    lost_files: 3,
    lost_per_mille: 2,
    lost_pages: 4,
    pages_per_myriad: 5,
    covered_percent: 50,
    few: 5,
    few_per_mille: 10,
    nights: 30,
    least_nights: 7,
    unusual_deviations: 4,
    suspect_deviations: 6,
    dense_per_mille: 600,
    least_random: 256,
};

/// Why a night is not normal, the strongest reason first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sign {
    /// Files became random where they stood.
    LostFiles,
    /// Pages of databases did.
    LostPages,
    /// Nearly all of the disk was written anew, and looks random.
    WholeDisk,
    /// Much changed, little of it was known, and it looks random: all far from usual.
    Flood,
    /// Fewer files became random where they stood.
    FewLost,
    /// New files are random from their first byte.
    Headless,
    /// Files vanished.
    Vanished,
    /// Files were written over by something that is no file.
    Covered,
    /// More changed than usual.
    Change,
    /// More random data than usual.
    Random,
    /// What was new could be compressed far less than usual.
    Dense,
    /// The night before has no statistics to compare with, and an earlier one has.
    Blind,
    /// The statistics do not agree with the sums of the snapshot.
    Contradiction,
}

/// All signs, and their words in a disk line.
const SIGNS: [(Sign, &str); 13] = [
    (Sign::LostFiles, "lost-files"),
    (Sign::LostPages, "lost-pages"),
    (Sign::WholeDisk, "whole-disk"),
    (Sign::Flood, "flood"),
    (Sign::FewLost, "few-lost"),
    (Sign::Headless, "headless"),
    (Sign::Vanished, "vanished"),
    (Sign::Covered, "covered"),
    (Sign::Change, "change"),
    (Sign::Random, "random"),
    (Sign::Dense, "dense"),
    (Sign::Blind, "blind"),
    (Sign::Contradiction, "contradiction"),
];

impl Sign {
    /// Its word.
    pub fn word(self) -> &'static str {
        SIGNS.iter().find(|(sign, _)| *sign == self).map_or("unknown", |(_, word)| word)
    }

    /// The same back; none for a word of a later version.
    pub fn parse(word: &str) -> Option<Self> {
        SIGNS.iter().find(|(_, known)| *known == word).map(|(sign, _)| *sign)
    }

    /// How bad it is by itself.
    pub fn weight(self) -> Suspicion {
        match self {
            Self::LostFiles | Self::LostPages | Self::WholeDisk | Self::Flood => Suspicion::Suspect,
            _ => Suspicion::Unusual,
        }
    }
}

/// What there is to judge by besides the numbers of the night.
#[derive(Debug, Clone, Copy, Default)]
pub struct Past<'a> {
    /// The nights before that were not suspect, the newest last; the first backup of a disk is none.
    pub nights: &'a [Counts],
    /// Whether this is the first backup of the disk.
    pub is_first: bool,
    /// Whether the night before has no statistics to compare with, though an earlier one has.
    pub is_blind: bool,
}

/// The verdict, and what it is by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// The word.
    pub verdict: Suspicion,
    /// What it is by, the strongest first.
    pub signs: Vec<Sign>,
}

/// Judges a night.
pub fn judge(night: &Counts, past: &Past<'_>) -> Judgement {
    judge_by(&THRESHOLDS, night, past)
}

/// The same by other thresholds.
fn judge_by(by: &Thresholds, night: &Counts, past: &Past<'_>) -> Judgement {
    if past.is_first {
        return Judgement::default();
    }
    let mut signs = of_files(by, night);
    signs.extend(of_history(by, night, past));
    if past.is_blind {
        signs.push(Sign::Blind);
    }
    signs.sort_unstable();
    let verdict = signs.iter().map(|sign| sign.weight()).max().unwrap_or_default();
    Judgement { verdict, signs }
}

/// What the starts of files say. It needs no history.
fn of_files(by: &Thresholds, night: &Counts) -> Vec<Sign> {
    let is_share = |part: u64, whole: u64, parts: u64, of: u64| {
        part.saturating_mul(of) >= whole.saturating_mul(parts) && whole > 0
    };
    let mut signs = Vec::new();
    if night.lost >= by.lost_files && is_share(night.lost, night.files_before, by.lost_per_mille, 1000) {
        signs.push(Sign::LostFiles);
    } else if night.lost > 0 || night.pages_lost > 0 {
        signs.push(Sign::FewLost);
    }
    if night.pages_lost >= by.lost_pages
        && is_share(night.pages_lost, night.pages_before, by.pages_per_myriad, 10_000)
    {
        signs.push(Sign::LostPages);
    }
    let is_over = |part: u64, whole: u64| part.saturating_mul(100) > whole.saturating_mul(by.covered_percent);
    if night.covered >= by.few
        && is_over(night.covered.saturating_add(night.lost), night.files_before)
        && is_over(night.random, night.data)
    {
        signs.push(Sign::WholeDisk);
    } else if night.covered >= by.few.max(night.files_before / 50) && night.headless > 0 {
        signs.push(Sign::Covered);
    }
    signs
}

/// What is far from the disk's own nights.
fn of_history(by: &Thresholds, night: &Counts, past: &Past<'_>) -> Vec<Sign> {
    let from = past.nights.len().saturating_sub(by.nights);
    let nights = past.nights.get(from..).unwrap_or_default();
    let away =
        |of: fn(&Counts) -> u64, floor: u64| deviations(of(night), nights.iter().map(of).collect(), floor);
    let mut signs = Vec::new();
    let is_young = nights.len() < by.least_nights;
    let share = if is_young { night.files_before.saturating_mul(by.few_per_mille) / 1000 } else { 0 };
    for (of, sign) in [
        ((|night: &Counts| night.headless) as fn(&Counts) -> u64, Sign::Headless),
        (|night| night.vanished, Sign::Vanished),
    ] {
        if of(night) >= by.few.max(share) && away(of, 1) > by.unusual_deviations {
            signs.push(sign);
        }
    }
    if is_young {
        return signs;
    }
    let (change, random) = (away(changed, 2000), away(|night| night.random, by.least_random / 4));
    let novelty = away(novel, 20);
    let is_much = night.random >= by.least_random;
    if [change, random, novelty].iter().all(|away| *away > by.suspect_deviations) && is_much {
        signs.push(Sign::Flood);
    }
    signs
        .extend((change > by.unusual_deviations && night.changed >= by.least_random).then_some(Sign::Change));
    let is_dense =
        night.new_bytes >= by.least_random.saturating_mul(4096) && density(night) >= by.dense_per_mille;
    signs.extend((is_dense && away(density, 20) > by.unusual_deviations).then_some(Sign::Dense));
    signs.extend((random > by.unusual_deviations && is_much).then_some(Sign::Random));
    signs
}

/// Changed blocks of all, in millionths.
fn changed(night: &Counts) -> u64 {
    night.changed.saturating_mul(1_000_000).checked_div(night.data).unwrap_or(0)
}

/// New bytes of those that changed, in parts of a thousand.
fn novel(night: &Counts) -> u64 {
    let changed_bytes = night.changed.saturating_mul(4096);
    night.new_bytes.saturating_mul(1000).checked_div(changed_bytes).unwrap_or(0).min(1000)
}

/// What new bytes were compressed to, in parts of a thousand.
fn density(night: &Counts) -> u64 {
    night.coded_bytes.saturating_mul(1000).checked_div(night.new_bytes).unwrap_or(0)
}

/// How many median absolute deviations a number lies above the median of the others. Nights that are alike deviate by
/// `floor`, or by a tenth of their median.
fn deviations(number: u64, others: Vec<u64>, floor: u64) -> u64 {
    let middle = median(others.clone());
    let spread = median(others.iter().map(|other| other.abs_diff(middle)).collect());
    let spread = spread.max(floor).max(middle / 10).max(1);
    number.saturating_sub(middle) / spread
}

fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quiet() -> Counts {
        Counts {
            data: 100_000,
            changed: 1500,
            random: 300,
            new_bytes: 1 << 20,
            coded_bytes: 400 << 10,
            files: 1200,
            files_before: 1190,
            ..Counts::default()
        }
    }

    fn judged(night: &Counts, nights: &[Counts]) -> Judgement {
        judge(night, &Past { nights, ..Past::default() })
    }

    #[test]
    fn a_night_as_others_is_normal() {
        assert_eq!(judged(&quiet(), &[quiet(); 30]), Judgement::default());
        assert_eq!(judged(&quiet(), &[]), Judgement::default());
        let first = Past { is_first: true, ..Past::default() };
        let all = Counts { changed: 100_000, ..quiet() };
        assert_eq!(judge(&all, &first), Judgement::default());
    }

    #[test]
    fn a_few_lost_files_of_many_are_unusual_and_more_are_suspect() {
        let night = |lost| Counts { lost, ..quiet() };
        for (lost, verdict) in [(0, Suspicion::Normal), (2, Suspicion::Unusual), (3, Suspicion::Suspect)] {
            assert_eq!(judged(&night(lost), &[quiet(); 30]).verdict, verdict, "{lost}");
        }
        let of_many = Counts { lost: 3, files_before: 1501, ..quiet() };
        assert_eq!(judged(&of_many, &[quiet(); 30]).verdict, Suspicion::Unusual);
        let pages = |pages_lost, pages_before| Counts { pages_lost, pages_before, ..quiet() };
        for (night, verdict) in [
            (pages(3, 5000), Suspicion::Unusual),
            (pages(4, 8000), Suspicion::Suspect),
            (pages(4, 8001), Suspicion::Unusual),
        ] {
            assert_eq!(judged(&night, &[quiet(); 30]).verdict, verdict, "{night:?}");
        }
        // On the very first night that has one before it, too.
        for nights in [&[][..], &[quiet(); 30]] {
            let judged = judged(&night(12), nights);
            assert_eq!((judged.verdict, judged.signs), (Suspicion::Suspect, vec![Sign::LostFiles]));
        }
    }

    #[test]
    fn the_attack_does_not_make_the_next_one_usual() {
        let attack = Counts { changed: 60_000, random: 50_000, new_bytes: 60_000 * 4096, ..quiet() };
        let mut nights = vec![quiet(); 20];
        nights.extend([attack; 5]);
        let judged = judged(&attack, &nights);
        assert_eq!(judged.verdict, Suspicion::Suspect);
        assert!(judged.signs.contains(&Sign::Flood));
    }

    #[test]
    fn encryption_of_the_disk_is_called_what_it_looks_like() {
        let night = Counts { covered: 1100, random: 99_000, changed: 100_000, files: 3, ..quiet() };
        assert!(judged(&night, &[quiet(); 30]).signs.contains(&Sign::WholeDisk));
    }

    #[test]
    fn words_read_as_they_were_written() {
        for (sign, word) in SIGNS {
            assert_eq!((Sign::parse(word), sign.word()), (Some(sign), word));
        }
        assert_eq!(Suspicion::parse("suspect"), Some(Suspicion::Suspect));
        assert_eq!(Suspicion::parse("infected"), None);
    }

    /// Of a disk of which little is known, what a package manager moves about is nothing.
    #[test]
    fn a_few_files_that_vanish_on_the_second_night_are_normal() {
        let night = Counts { vanished: 7, headless: 5, files_before: 4926, ..quiet() };
        assert_eq!(judged(&night, &[]).verdict, Suspicion::Normal);
        assert_eq!(judged(&night, &[quiet(); 7]).verdict, Suspicion::Unusual);
        let more = Counts { vanished: 50, ..night };
        assert_eq!(judged(&more, &[]).signs, [Sign::Vanished]);
    }

    proptest! {
        /// More lost files never make a night look better, and no numbers make it panic.
        #[test]
        fn more_lost_files_are_never_less_suspect(
            numbers in any::<[u64; super::super::extent::NUMBERS]>(),
            past in proptest::collection::vec(any::<[u64; super::super::extent::NUMBERS]>(), 0..40),
            more in 0u64..1000,
        ) {
            let night = Counts::of_numbers(numbers);
            let nights: Vec<Counts> = past.into_iter().map(Counts::of_numbers).collect();
            let past = Past { nights: &nights, ..Past::default() };
            let worse = Counts { lost: night.lost.saturating_add(more), ..night };
            prop_assert!(judge(&worse, &past).verdict >= judge(&night, &past).verdict);
        }

        /// The order of the nights before says nothing.
        #[test]
        fn the_order_of_earlier_nights_does_not_matter(
            numbers in any::<[u32; super::super::extent::NUMBERS]>(),
            past in proptest::collection::vec(any::<[u32; super::super::extent::NUMBERS]>(), 0..30),
        ) {
            let counts = |numbers: [u32; super::super::extent::NUMBERS]| Counts::of_numbers(numbers.map(u64::from));
            let mut nights: Vec<Counts> = past.into_iter().map(counts).collect();
            let forward = judged(&counts(numbers), &nights);
            nights.reverse();
            prop_assert_eq!(forward, judged(&counts(numbers), &nights));
        }
    }
}
