//! Licence expressions as packages write them: names joined by `AND`, `OR`, `WITH`, brackets, and the old `/` for `OR`.

use anyhow::{Result, bail};

/// Whether whoever accepts the licences `allowed` may use a package under `expression`.
///
/// Errors: the expression is malformed.
pub(super) fn is_allowed(expression: &str, allowed: &[String]) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, allowed };
    let verdict = reader.alternatives();
    match verdict {
        Some(verdict) if reader.words.is_empty() => Ok(verdict),
        _ => bail!("`{expression}` is no licence expression"),
    }
}

/// Reads from the front of `words`; `None` where the expression is malformed.
struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl<'a> Reader<'a> {
    fn alternatives(&mut self) -> Option<bool> {
        let mut verdict = self.together()?;
        while self.take("OR") {
            verdict |= self.together()?;
        }
        Some(verdict)
    }

    fn together(&mut self) -> Option<bool> {
        let mut verdict = self.one()?;
        while self.take("AND") {
            verdict &= self.one()?;
        }
        Some(verdict)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let verdict = self.alternatives()?;
            return self.take(")").then_some(verdict);
        }
        let mut name = self.name()?.to_owned();
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.name()?);
        }
        Some(self.allowed.contains(&name))
    }

    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.first() == Some(&word);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }

    fn name(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        (!["AND", "OR", "WITH", "(", ")"].contains(first)).then_some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    fn verdict(expression: &str) -> bool {
        let allowed = ["MIT", "ISC", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        is_allowed(expression, &allowed).unwrap()
    }

    #[test]
    fn one_of_alternatives_is_enough_and_all_of_a_sum_are_needed() {
        assert!(verdict("GPL-3.0 OR MIT") && verdict("GPL-3.0/MIT") && verdict("MIT AND ISC"));
        assert!(!verdict("GPL-3.0") && !verdict("MIT AND GPL-3.0"));
    }

    #[test]
    fn and_binds_closer_than_or_and_brackets_closest() {
        assert!(verdict("MIT OR GPL-3.0 AND BSD-3-Clause"));
        assert!(!verdict("(MIT OR GPL-3.0) AND BSD-3-Clause"));
        assert!(verdict("ISC AND (Apache-2.0 OR GPL-3.0)"));
    }

    #[test]
    fn an_exception_belongs_to_the_name() {
        assert!(verdict("Apache-2.0 WITH LLVM-exception"));
        assert!(!verdict("MIT WITH LLVM-exception"));
    }

    #[test]
    fn malformed_expressions_are_errors() {
        for expression in ["", "MIT OR", "OR MIT", "(MIT", "MIT)", "MIT ISC"] {
            assert!(is_allowed(expression, &["MIT".to_owned()]).is_err(), "{expression}");
        }
    }
}
