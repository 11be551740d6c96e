//! XML as a tree: what libvirt prints, and what it is told. Names, attributes and text alone; comments are left out.

use std::fmt::Write;

use quick_xml::Reader;
use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::{BytesRef, BytesStart, Event};

/// Deeper is no description of a machine.
const DEPTH_MAX: usize = 64;

/// An element with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) children: Vec<Element>,
    pub(crate) text: String,
}

impl Element {
    /// The one element that a text is.
    ///
    /// Errors: why it is none, in words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(text);
        // What is open, outermost first, below something that holds the whole.
        let mut open = vec![Self::default()];
        loop {
            let event = reader.read_event().map_err(|error| error.to_string())?;
            let depth = open.len();
            let now = open.last_mut().ok_or("it ends what never began")?;
            match event {
                Event::Start(start) if depth <= DEPTH_MAX => open.push(Self::begin(&start)?),
                Event::Start(_) => return Err(format!("it is nested more than {DEPTH_MAX} deep")),
                Event::Empty(start) => now.children.push(Self::begin(&start)?),
                Event::End(_) => {
                    let ended = open.pop().ok_or("it ends what never began")?;
                    open.last_mut().ok_or("it ends what never began")?.children.push(ended);
                }
                Event::Text(text) => now.text.push_str(&text.decode().map_err(|error| error.to_string())?),
                Event::CData(text) => now.text.push_str(&text.decode().map_err(|error| error.to_string())?),
                Event::GeneralRef(reference) => now.text.push_str(&resolved(&reference)?),
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        let (Some(mut all), true) = (open.pop(), open.is_empty()) else {
            return Err("it is cut short".into());
        };
        match (all.children.pop(), all.children.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => Err("it is not one element".into()),
        }
    }

    fn begin(start: &BytesStart<'_>) -> Result<Self, String> {
        let name = String::from_utf8_lossy(start.name().as_ref()).into_owned();
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let key = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
            let raw = String::from_utf8_lossy(&attribute.value).into_owned();
            let value = quick_xml::escape::unescape(&raw).map_err(|error| error.to_string())?;
            attributes.push((key, value.into_owned()));
        }
        Ok(Self { name, attributes, ..Self::default() })
    }

    /// The first child of this name.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of this name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The text of a child, without blanks around it; none where there is none.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim()).filter(|text| !text.is_empty())
    }

    /// A child that is only a name.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The same with an attribute.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.attributes.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a child.
    pub(crate) fn holding(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// The same with text.
    pub(crate) fn saying(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }

    /// As text that reads back as the same.
    pub(crate) fn written(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        // Writing to a string cannot fail.
        let _ = write!(text, "<{}", self.name);
        for (name, value) in &self.attributes {
            let _ = write!(text, " {name}=\"{}\"", escape(value));
        }
        text.push('>');
        text.push_str(&escape(&self.text));
        self.children.iter().for_each(|child| child.write(text));
        let _ = write!(text, "</{}>", self.name);
    }
}

/// A character by its number, or one of the five that XML knows by name.
fn resolved(reference: &BytesRef<'_>) -> Result<String, String> {
    if let Some(letter) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(letter.into());
    }
    let name = reference.decode().map_err(|error| error.to_string())?;
    resolve_predefined_entity(&name)
        .map(str::to_owned)
        .ok_or_else(|| format!("it speaks of an unknown &{name};"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_attributes_and_text_are_read() {
        let text = "<?xml version='1.0'?><!-- x --><a b='1 &amp; &#50;'><c/> t &lt;&#x41;<d>e</d></a>\n";
        let read = Element::parse(text).unwrap();
        assert_eq!(read.attribute("b"), Some("1 & 2"));
        assert_eq!(
            (read.text.trim(), read.text_of("d"), read.child("c").is_some()),
            ("t <A", Some("e"), true)
        );
    }

    #[test]
    fn what_is_no_whole_element_is_refused() {
        let deep = "<a>".repeat(100);
        for text in ["", "x", "<a>", "</a>", "<a/><b/>", "<a b></a>", "<a>&x;</a>", "<a b='&x;'/>", &deep] {
            Element::parse(text).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_reads_back(name in "[a-z]{1,8}", value in "[ -~äß€]{0,20}", text in "[!-~ä]{0,20}") {
            let inner = Element::new("in").saying(&text);
            let element = Element::new(&name).with("v", &value).holding(inner);
            prop_assert_eq!(Element::parse(&element.written()).unwrap(), element);
        }

        #[test]
        fn no_text_stops_the_reader(text in "\\PC{0,200}") {
            let _ = Element::parse(&text);
        }
    }
}
