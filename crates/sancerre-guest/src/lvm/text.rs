//! The text by which LVM describes a group: sections with words, numbers and lists.

use crate::fault::{Fault, Result};

/// Sections within each other.
const DEPTH_MAX: usize = 12;
const ODD: Fault = Fault::Corrupt("a description of LVM that makes no sense");

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Word(String),
    Number(u64),
    List(Vec<Value>),
    Section(Section),
}

/// Names and what they stand for, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Section(Vec<(String, Value)>);

impl Section {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections().find(|(known, _)| *known == name).map(|(_, section)| section)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> Option<&[Value]> {
        match self.get(name) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    /// A word, or all of a list.
    pub(super) fn words(&self, name: &str) -> Vec<String> {
        let of = |value: &Value| match value {
            Value::Word(word) => Some(word.clone()),
            _ => None,
        };
        match self.get(name) {
            Some(Value::List(list)) => list.iter().filter_map(of).collect(),
            Some(value) => of(value).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

/// The whole text.
pub(super) fn parse(text: &[u8]) -> Result<Section> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut parser = Parser { rest: text };
    let section = parser.section(DEPTH_MAX)?;
    if parser.peek().is_some() { Err(ODD) } else { Ok(section) }
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    /// The next sign that means something.
    fn peek(&mut self) -> Option<u8> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            match self.rest.first()? {
                b'#' => {
                    let end = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
                    self.rest = self.rest.get(end..).unwrap_or_default();
                }
                sign => return Some(*sign),
            }
        }
    }

    fn skip(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    /// Up to the brace that ends it, which is left.
    fn section(&mut self, depth: usize) -> Result<Section> {
        let deeper = depth.checked_sub(1).ok_or(ODD)?;
        let mut found = Vec::new();
        while let Some(sign) = self.peek() {
            if sign == b'}' {
                break;
            }
            let name = self.name()?;
            match self.peek() {
                Some(b'=') => {
                    self.skip();
                    found.push((name, self.value(deeper)?));
                }
                Some(b'{') => {
                    self.skip();
                    let section = self.section(deeper)?;
                    if self.peek() != Some(b'}') {
                        return Err(ODD);
                    }
                    self.skip();
                    found.push((name, Value::Section(section)));
                }
                _ => return Err(ODD),
            }
        }
        Ok(Section(found))
    }

    fn name(&mut self) -> Result<String> {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.+".contains(byte);
        let end = self.rest.iter().position(|byte| !is_part(byte)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at_checked(end).filter(|(name, _)| !name.is_empty()).ok_or(ODD)?;
        self.rest = rest;
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        let deeper = depth.checked_sub(1).ok_or(ODD)?;
        match self.peek().ok_or(ODD)? {
            b'"' => self.quoted(),
            b'[' => {
                self.skip();
                let mut list = Vec::new();
                loop {
                    match self.peek().ok_or(ODD)? {
                        b']' => break,
                        b',' => self.skip(),
                        _ => list.push(self.value(deeper)?),
                    }
                }
                self.skip();
                Ok(Value::List(list))
            }
            _ => {
                let word = self.name()?;
                Ok(word.parse().map_or(Value::Word(word), Value::Number))
            }
        }
    }

    fn quoted(&mut self) -> Result<Value> {
        self.skip();
        let mut word = Vec::new();
        loop {
            let (sign, rest) = self.rest.split_first().ok_or(ODD)?;
            self.rest = rest;
            match sign {
                b'"' => return Ok(Value::Word(String::from_utf8_lossy(&word).into_owned())),
                b'\\' => {
                    let (sign, rest) = self.rest.split_first().ok_or(ODD)?;
                    self.rest = rest;
                    word.push(*sign);
                }
                sign => word.push(*sign),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read() {
        let text = b"vg0 {\nid = \"a-b\"\nextent_size = 8192\t\t# 4 Megabytes\nflags = []\nlogical_volumes {\nroot {\nsegment1 {\n\
                     stripes = [\n\"pv0\", 0,\n\"pv1\", 7\n]\n}\n}\n}\n}\n# made\ncontents = \"Text \\\"x\\\"\"\nversion = 1\n\0";
        let parsed = parse(text).unwrap();
        let group = parsed.section("vg0").unwrap();
        assert_eq!(group.number("extent_size"), Some(8192));
        let segment =
            group.section("logical_volumes").unwrap().section("root").unwrap().section("segment1").unwrap();
        assert_eq!(segment.list("stripes").unwrap()[3], Value::Number(7));
        assert_eq!(parsed.words("contents"), ["Text \"x\""]);
    }

    #[test]
    fn depth_has_an_end() {
        assert!(parse("a{".repeat(100_000).as_bytes()).is_err());
        assert!(parse(format!("a={}", "[".repeat(100_000)).as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z{}\\[\\]=\"\\\\# \n,0-9]{0,200}") {
            let _ = parse(text.as_bytes());
        }
    }
}
