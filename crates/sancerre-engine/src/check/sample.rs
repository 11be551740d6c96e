//! How many packs must be read before a loss can hardly have stayed hidden: sampling without replacement.
//!
//! Of N packs K are bad. Drawing n of them without putting one back misses all bad ones with the probability that the
//! hypergeometric distribution gives for none,
//!
//! ```text
//! C(N-K, n) / C(N, n)  =  (N-K)/N · (N-K-1)/(N-1) · … · (N-K-n+1)/(N-n+1)
//! ```
//!
//! The n returned here is the smallest for which that is at most 1 - confidence.

use std::collections::BTreeSet;

use sancerre_format::id::{Hash, PackName};
use sancerre_format::list::ListedPack;

use crate::error::{Error, Result};

/// Products of some millions of factors err by less than this, relatively.
const ROUNDING: f64 = 1e-9;

/// Packs drawn at random, so many that a loss would be noticed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The share of packs, in per cent, whose loss must not go unnoticed.
    pub loss_percent: f64,
    /// With which probability it must be noticed, in per cent.
    pub confidence_percent: f64,
    /// Decides which packs are drawn. Fresh for each run: who knows it knows which packs nobody will look at.
    pub seed: [u8; 32],
}

impl Sample {
    /// Fails with [`Error::Usage`] when nothing can be meant by it.
    pub fn validate(&self) -> Result<()> {
        let is_share = |percent: f64| percent > 0.0 && percent <= 100.0;
        match (is_share(self.loss_percent), is_share(self.confidence_percent)) {
            (true, true) => Ok(()),
            (false, _) => Err(Error::Usage(format!(
                "a loss of {}% cannot be looked for: give more than 0%, at most 100%",
                self.loss_percent
            ))),
            (_, false) => Err(Error::Usage(format!(
                "a confidence of {}% cannot be had: give more than 0%, at most 100%",
                self.confidence_percent
            ))),
        }
    }

    /// How many bad packs of `population` are the loss that must be noticed: at least one.
    pub fn bad(&self, population: u64) -> u64 {
        let bad = (self.loss_percent / 100.0 * population as f64 * (1.0 - ROUNDING)).ceil();
        (bad as u64).clamp(1, population.max(1))
    }

    /// How many of `population` packs must be drawn.
    pub fn draws(&self, population: u64) -> u64 {
        let good = population.saturating_sub(self.bad(population));
        let accepted = (1.0 - self.confidence_percent / 100.0) * (1.0 + ROUNDING) + f64::MIN_POSITIVE;
        let mut missed = 1.0;
        let mut draws = 0u64;
        while missed > accepted && draws < population {
            missed *= good.saturating_sub(draws) as f64 / population.saturating_sub(draws) as f64;
            draws = draws.saturating_add(1);
        }
        draws
    }

    /// Draws from these packs. Every choice of that many is equally likely to whoever does not know the seed, and the
    /// same seed draws the same again.
    pub(super) fn choose(&self, packs: &[(PackName, &ListedPack)]) -> BTreeSet<PackName> {
        let draws = self.draws(u64::try_from(packs.len()).unwrap_or(u64::MAX));
        let ticket = |pack: &ListedPack| Hash::of(&[self.seed, pack.hash.0].concat());
        let mut tickets: Vec<(Hash, PackName)> =
            packs.iter().map(|(name, pack)| (ticket(pack), *name)).collect();
        tickets.sort_unstable();
        tickets.truncate(usize::try_from(draws).unwrap_or(usize::MAX));
        tickets.into_iter().map(|(_, name)| name).collect()
    }
}

/// What a sample came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// What was asked for.
    pub sample: Sample,
    /// Packs that there were to draw from: needed, there, and of their right size.
    pub population: u64,
    /// Packs drawn.
    pub drawn: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(loss_percent: f64, confidence_percent: f64) -> Sample {
        Sample { loss_percent, confidence_percent, seed: [7; 32] }
    }

    /// ln C(n, k), by adding logarithms: another way to the same number.
    fn ln_choose(n: u64, k: u64) -> f64 {
        (1..=k).map(|i| ((n - k + i) as f64).ln() - (i as f64).ln()).sum()
    }

    /// The hypergeometric probability that none of `draws` is among the `bad` of `population`.
    fn missed(population: u64, bad: u64, draws: u64) -> f64 {
        if draws > population - bad {
            return 0.0;
        }
        (ln_choose(population - bad, draws) - ln_choose(population, draws)).exp()
    }

    #[test]
    fn the_number_is_the_smallest_that_the_hypergeometric_distribution_allows() {
        for population in [1, 2, 3, 10, 99, 100, 500, 1000, 4603, 20_000] {
            for loss in [0.1, 0.5, 1.0, 3.0, 50.0, 100.0] {
                for confidence in [50.0, 90.0, 95.0, 99.0, 99.9] {
                    let sample = sample(loss, confidence);
                    let (bad, draws) = (sample.bad(population), sample.draws(population));
                    let accepted = 1.0 - confidence / 100.0;
                    let what = format!("{draws} of {population}, {bad} bad, {confidence}%");
                    assert!(missed(population, bad, draws) <= accepted + 1e-9, "too few: {what}");
                    assert!(missed(population, bad, draws - 1) > accepted - 1e-9, "too many: {what}");
                }
            }
        }
    }

    /// The whole distribution by counting, where that is possible: all ways to draw from a few packs.
    #[test]
    fn small_populations_by_counting() {
        for population in 1..=12u32 {
            for bad in 1..=population {
                for draws in 0..=population {
                    let ways: Vec<u32> =
                        (0..1u32 << population).filter(|way| way.count_ones() == draws).collect();
                    let none = ways.iter().filter(|way| *way & ((1 << bad) - 1) == 0).count();
                    let counted = none as f64 / ways.len() as f64;
                    let formula = missed(population.into(), bad.into(), draws.into());
                    assert!((counted - formula).abs() < 1e-12, "{draws} of {population}, {bad} bad");
                }
            }
        }
    }

    #[test]
    fn known_numbers() {
        // With so many packs that putting back makes no difference: ln(1 - 0.99) / ln(1 - 0.001).
        assert_eq!(sample(0.1, 99.0).draws(1_000_000_000), 4603);
        assert_eq!(sample(1.0, 95.0).draws(1_000_000_000), 299);
        // One bad pack of 500 is 0.2 %: only nearly all of them will do.
        assert_eq!((sample(0.1, 99.0).bad(500), sample(0.1, 99.0).draws(500)), (1, 495));
        assert_eq!(sample(0.1, 100.0).draws(500), 500);
        assert_eq!(sample(1.0, 100.0).draws(500), 496);
        assert_eq!(sample(100.0, 99.0).draws(500), 1);
        assert_eq!(sample(0.1, 99.0).draws(0), 0);
        assert_eq!(sample(0.1, 99.0).bad(3000), 3, "0.1 % of 3000 is 3, however 0.001 is rounded");
    }

    /// Draws as the audit does, many times, and counts how often a loss is met.
    #[test]
    fn as_many_losses_are_met_as_promised() {
        let listed: Vec<(PackName, ListedPack)> = (0..400).map(super::super::tests::listed).collect();
        let packs: Vec<(PackName, &ListedPack)> = listed.iter().map(|(name, pack)| (*name, pack)).collect();
        let met = (0..2000u32).filter(|round| {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&round.to_le_bytes());
            let drawn = Sample { seed, ..sample(1.0, 90.0) }.choose(&packs);
            // 1 % of 400: the first four are bad.
            packs.iter().take(4).any(|(name, _)| drawn.contains(name))
        });
        let share = met.count() as f64 / 2000.0;
        let truth = 1.0 - missed(400, 4, sample(1.0, 90.0).draws(400));
        // Four standard deviations of 2000 throws.
        assert!((share - truth).abs() < 4.0 * (truth * (1.0 - truth) / 2000.0).sqrt(), "{share}, {truth}");
    }

    #[test]
    fn a_seed_decides_and_nothing_else() {
        let listed: Vec<(PackName, ListedPack)> = (0..1000).map(super::super::tests::listed).collect();
        let packs: Vec<(PackName, &ListedPack)> = listed.iter().map(|(name, pack)| (*name, pack)).collect();
        let mut backwards = packs.clone();
        backwards.reverse();
        let first = sample(1.0, 95.0).choose(&packs);
        assert_eq!(first, sample(1.0, 95.0).choose(&backwards));
        assert_eq!(first.len() as u64, sample(1.0, 95.0).draws(1000));
        assert_ne!(first, Sample { seed: [8; 32], ..sample(1.0, 95.0) }.choose(&packs));
    }

    #[test]
    fn nonsense_is_refused() {
        for (loss, confidence) in [
            (0.0, 99.0),
            (-1.0, 99.0),
            (f64::NAN, 99.0),
            (101.0, 99.0),
            (1.0, 0.0),
            (1.0, 100.1),
            (1.0, f64::NAN),
        ] {
            assert!(sample(loss, confidence).validate().is_err(), "{loss} {confidence}");
        }
        sample(0.1, 100.0).validate().unwrap();
    }
}
