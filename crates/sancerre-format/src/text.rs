//! Lines of `key: value`: the clear part of every record, read strictly and written one way only (FORMAT.md §2).

use std::fmt::Display;
use std::str::FromStr;

use crate::error::{Result, corrupt, ensure, unsupported};

/// Most bytes of a record's text.
pub const TEXT_BYTES_MAX: usize = 16 << 20;
const LINE_BYTES_MAX: usize = 64 << 10;

/// Collects lines.
#[derive(Debug, Clone)]
pub struct TextWriter(String);

impl TextWriter {
    /// A text whose first line is `kind`.
    pub fn new(kind: &str) -> Self {
        Self(format!("{kind}\n"))
    }

    /// Adds a line.
    pub fn field(&mut self, key: &str, value: impl Display) -> &mut Self {
        use std::fmt::Write;
        let _ = writeln!(self.0, "{key}: {value}");
        self
    }

    /// Adds the line that names features a reader must know: none in this version.
    pub fn no_features(&mut self) -> &mut Self {
        self.field("critical", "-")
    }

    /// Adds one line per value.
    pub fn repeated<T: Display>(&mut self, key: &str, values: impl IntoIterator<Item = T>) -> &mut Self {
        for value in values {
            self.field(key, value);
        }
        self
    }

    /// Adds lines kept from a decoded text.
    pub fn extensions(&mut self, lines: &[String]) -> &mut Self {
        for line in lines {
            self.0.push_str(line);
            self.0.push('\n');
        }
        self
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Reads lines in their fixed order.
#[derive(Debug, Clone)]
pub struct TextReader<'a> {
    what: &'static str,
    rest: &'a str,
}

impl<'a> TextReader<'a> {
    /// A reader behind the first line, which must be `kind`.
    pub fn new(kind: &'static str, text: &'a [u8]) -> Result<Self> {
        ensure(text.len() <= TEXT_BYTES_MAX, kind, || format!("text of {} bytes is too long", text.len()))?;
        Self::unbounded(kind, text)
    }

    /// [`TextReader::new`] for text that was bounded when it was decompressed.
    pub(crate) fn unbounded(kind: &'static str, text: &'a [u8]) -> Result<Self> {
        let printable = |byte: &u8| matches!(byte, b'\n' | 0x20..=0x7e);
        ensure(text.iter().all(printable), kind, || "text holds bytes that are not printable ASCII".into())?;
        let text = std::str::from_utf8(text).map_err(|_| corrupt(kind, "text is not ASCII"))?;
        ensure(text.ends_with('\n'), kind, || "text does not end in a line feed".into())?;
        let mut reader = Self { what: kind, rest: text };
        match reader.line()? {
            first if first == kind => Ok(reader),
            other => Err(reader.wrong_kind(other)),
        }
    }

    fn wrong_kind(&self, found: &str) -> crate::FormatError {
        let family = self.what.trim_end_matches(|digit: char| digit.is_ascii_digit());
        match found.strip_prefix(family) {
            // The versions after this one; there was none before it.
            Some(version) if number::<u64>(self.what, version).is_ok_and(|version| version > 1) => {
                unsupported(self.what, found)
            }
            _ => corrupt(self.what, format!("first line is {found:?}")),
        }
    }

    fn line(&mut self) -> Result<&'a str> {
        let Some((line, rest)) = self.rest.split_once('\n') else {
            return Err(corrupt(self.what, "text ends early"));
        };
        ensure(line.len() <= LINE_BYTES_MAX, self.what, || format!("a line has {} bytes", line.len()))?;
        self.rest = rest;
        Ok(line)
    }

    fn peek(&self, key: &str) -> Option<&'a str> {
        let line = self.rest.split_once('\n')?.0;
        line.strip_prefix(key)?.strip_prefix(": ")
    }

    /// The value of the next line, whose key must be `key`.
    pub fn value(&mut self, key: &str) -> Result<&'a str> {
        let Some(value) = self.peek(key) else {
            let found = self.rest.split_once('\n').map_or("", |(line, _)| line);
            let found: String = found.chars().take(80).collect();
            return Err(corrupt(self.what, format!("expected {key:?}, found {found:?}")));
        };
        self.line()?;
        ensure(!value.is_empty() && value == value.trim(), self.what, || {
            format!("{key} is empty or padded")
        })?;
        Ok(value)
    }

    /// Reads the line of features that a reader must know; stops at any, for this version knows none.
    pub fn no_features(&mut self) -> Result<()> {
        match self.value("critical")? {
            "-" => Ok(()),
            features => Err(unsupported(self.what, format!("feature {features}"))),
        }
    }

    /// The next value, parsed with `parse`.
    pub fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&'a str) -> Result<T>) -> Result<T> {
        parse(self.value(key)?)
    }

    /// A number without sign or leading zeros.
    pub fn number<T: FromStr>(&mut self, key: &str) -> Result<T> {
        let value = self.value(key)?;
        number(self.what, value)
    }

    /// All following lines with this key, each parsed.
    pub fn repeated<T>(&mut self, key: &str, mut parse: impl FnMut(&'a str) -> Result<T>) -> Result<Vec<T>> {
        let mut values = Vec::new();
        while self.peek(key).is_some() {
            values.push(self.parsed(key, &mut parse)?);
        }
        Ok(values)
    }

    /// The ignorable `x-` lines that come next, as they are.
    pub fn extensions(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        while self.rest.starts_with("x-") {
            let line = self.line()?;
            let value = line.split_once(": ").filter(|(key, _)| key.len() > 2 && !key.contains(' '));
            let well_formed = value.is_some_and(|(_, value)| !value.is_empty() && value == value.trim());
            ensure(well_formed, self.what, || "an x- line is not \"x-key: value\"".into())?;
            lines.push(line.to_owned());
        }
        Ok(lines)
    }

    /// Fails unless every line was read.
    pub fn finish(self) -> Result<()> {
        ensure(self.rest.is_empty(), self.what, || {
            let line: String = self.rest.lines().next().unwrap_or("").chars().take(80).collect();
            format!("unexpected line {line:?}")
        })
    }
}

/// A number in its one spelling.
pub fn number<T: FromStr>(what: &'static str, text: &str) -> Result<T> {
    let canonical =
        text.bytes().all(|digit| digit.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let parsed = if canonical { text.parse().ok() } else { None };
    parsed.ok_or_else(|| corrupt(what, format!("{text:?} is not a number in range")))
}

/// `-` for an absent value.
pub fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
    if text == "-" { Ok(None) } else { parse(text).map(Some) }
}

/// Writes an absent value as `-`.
pub(crate) fn or_dash<T: Display>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "-".to_owned(), T::to_string)
}
