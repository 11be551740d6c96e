//! What is counted of one night: for each extent of 4 MiB of a disk, and for the disk.

use std::fmt;

/// The stretch of a disk that is counted by itself.
pub const EXTENT_BYTES: u64 = 4 << 20;

/// What of an extent was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Plain bytes that nobody knew.
    pub new_bytes: u64,
    /// What they were compressed to.
    pub coded_bytes: u64,
}

/// What is counted. Blocks have 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Blocks that are no holes.
    pub data: u64,
    /// Blocks of chunks that were not there the night before.
    pub changed: u64,
    /// Of these, blocks whose bytes are spread as those of encrypted or compressed data.
    pub random: u64,
    /// Plain bytes that nobody knew.
    pub new_bytes: u64,
    /// What they were compressed to.
    pub coded_bytes: u64,
    /// Blocks at which a file starts.
    pub files: u64,
    /// The same the night before.
    pub files_before: u64,
    /// Files whose start became random where it stood, and nothing else was written over them.
    pub lost: u64,
    /// Files over which something else was written.
    pub covered: u64,
    /// Files whose start became a hole or zeros.
    pub vanished: u64,
    /// Files that begin with random bytes, and were not there.
    pub headless: u64,
    /// Pages of databases the night before.
    pub pages_before: u64,
    /// Pages that became random where they stood.
    pub pages_lost: u64,
}

/// How many numbers there are.
pub(super) const NUMBERS: usize = 13;

impl Counts {
    /// The numbers in their order.
    pub fn numbers(&self) -> [u64; NUMBERS] {
        [
            self.data,
            self.changed,
            self.random,
            self.new_bytes,
            self.coded_bytes,
            self.files,
            self.files_before,
            self.lost,
            self.covered,
            self.vanished,
            self.headless,
            self.pages_before,
            self.pages_lost,
        ]
    }

    /// The same back.
    pub fn of_numbers(numbers: [u64; NUMBERS]) -> Self {
        let [data, changed, random, new_bytes, coded_bytes, files, files_before, rest @ ..] = numbers;
        let [lost, covered, vanished, headless, pages_before, pages_lost] = rest;
        Self {
            data,
            changed,
            random,
            new_bytes,
            coded_bytes,
            files,
            files_before,
            lost,
            covered,
            vanished,
            headless,
            pages_before,
            pages_lost,
        }
    }

    /// Whether nothing happened: what there is was there the night before.
    pub fn is_quiet(&self) -> bool {
        let still = Self {
            data: self.data,
            files: self.files,
            files_before: self.files_before,
            pages_before: self.pages_before,
            ..Self::default()
        };
        *self == still
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        let mut sum = self.numbers();
        sum.iter_mut().zip(other.numbers()).for_each(|(sum, number)| *sum = sum.saturating_add(number));
        *self = Self::of_numbers(sum);
    }

    /// Reads the word of a disk. Numbers of later versions behind these are ignored.
    pub fn parse(word: &str) -> Option<Self> {
        let mut numbers = [0; NUMBERS];
        let mut words = word.split(',');
        for number in &mut numbers {
            *number = sancerre_format::text::number("counts", words.next()?).ok()?;
        }
        Some(Self::of_numbers(numbers))
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = self.numbers().map(|number| number.to_string());
        f.write_str(&numbers.join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_read_as_they_were_written(numbers in any::<[u64; NUMBERS]>()) {
            let counts = Counts::of_numbers(numbers);
            prop_assert_eq!(counts.numbers(), numbers);
            prop_assert_eq!(Counts::parse(&counts.to_string()), Some(counts));
            prop_assert_eq!(Counts::parse(&format!("{counts},7")), Some(counts));
        }

        #[test]
        fn no_word_makes_it_panic(word in "[0-9,x-]{0,60}") {
            let _ = Counts::parse(&word);
        }
    }
}
