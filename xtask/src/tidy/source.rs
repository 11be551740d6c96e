//! A Rust source file as a flat list of tokens, each with its line and whether it is test code.
//!
//! Comments and the inside of strings are no tokens, so a rule over tokens never fires on text.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// One token, or one bracket of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// An identifier, a punctuation character, a bracket or a literal as written.
    pub(super) text: String,
    /// From 1.
    pub(super) line: usize,
    /// Brackets that are open here.
    pub(super) depth: usize,
}

/// A parsed file.
pub(super) struct Source {
    pub(super) text: String,
    pub(super) tokens: Vec<Token>,
    /// Inclusive ranges of lines that are compiled for tests only.
    test_lines: Vec<(usize, usize)>,
}

impl Source {
    /// Errors: the text is not made of Rust tokens.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let stream: TokenStream = text.parse().map_err(|error| anyhow!("not Rust: {error}"))?;
        let mut tokens = Vec::new();
        flatten(stream, 0, &mut tokens);
        let test_lines = test_lines(&tokens);
        Ok(Self { text: text.to_owned(), tokens, test_lines })
    }

    /// Whether `line` belongs to an item under `#[test]` or `#[cfg(test)]`.
    pub(super) fn is_test_line(&self, line: usize) -> bool {
        self.test_lines.iter().any(|(first, last)| (*first..=*last).contains(&line))
    }

    /// Number of lines outside test items.
    pub(super) fn product_lines(&self) -> usize {
        (1..=self.text.lines().count()).filter(|line| !self.is_test_line(*line)).count()
    }

    /// Whether the tokens from `index` on read as `pattern`.
    pub(super) fn matches(&self, index: usize, pattern: &[&str]) -> bool {
        let slice = self.tokens.get(index..index + pattern.len());
        slice.is_some_and(|slice| slice.iter().zip(pattern).all(|(token, text)| token.text == *text))
    }

    /// Whether a comment on this line, or alone on the line above, states the invariant that a panic rests on.
    pub(super) fn states_invariant(&self, line: usize) -> bool {
        let at = |number: usize| number.checked_sub(1).and_then(|index| self.text.lines().nth(index));
        let same = at(line).is_some_and(|text| text.contains("// invariant: "));
        let above = at(line - 1).is_some_and(|text| text.trim_start().starts_with("// invariant: "));
        same || above
    }
}

fn flatten(stream: TokenStream, depth: usize, into: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => flatten_group(&group, depth, into),
            TokenTree::Ident(ident) => into.push(Token { text: ident.to_string(), line, depth }),
            TokenTree::Punct(punct) => into.push(Token { text: punct.as_char().to_string(), line, depth }),
            TokenTree::Literal(literal) => into.push(Token { text: literal.to_string(), line, depth }),
        }
    }
}

fn flatten_group(group: &Group, depth: usize, into: &mut Vec<Token>) {
    let (open, close) = match group.delimiter() {
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::None => return flatten(group.stream(), depth, into),
    };
    into.push(Token { text: open.into(), line: group.span_open().start().line, depth });
    flatten(group.stream(), depth + 1, into);
    into.push(Token { text: close.into(), line: group.span_close().start().line, depth });
}

fn test_lines(tokens: &[Token]) -> Vec<(usize, usize)> {
    let last_line = tokens.last().map_or(0, |token| token.line);
    let mut ranges = Vec::new();
    for (index, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "#") {
        let is_inner = tokens.get(index + 1).is_some_and(|next| next.text == "!");
        let open = if is_inner { index + 2 } else { index + 1 };
        let Some(close) = end_of_group(tokens, open) else { continue };
        if !is_test_attribute(&tokens[open..close]) {
            continue;
        }
        let last = if is_inner { last_line } else { end_of_item(tokens, close + 1).unwrap_or(last_line) };
        ranges.push((token.line, last));
    }
    ranges
}

/// `[test]`, `[tokio::test]`, `[cfg(test)]`, `[cfg(any(test, ..))]`; not `[cfg(not(test))]`, `[cfg_attr(test, ..)]`.
fn is_test_attribute(tokens: &[Token]) -> bool {
    let has = |word: &str| tokens.iter().any(|token| token.text == word);
    has("test") && !has("not") && !has("cfg_attr") && !has("doc")
}

/// Index of the bracket that closes the one at `open`.
pub(super) fn end_of_group(tokens: &[Token], open: usize) -> Option<usize> {
    let first = tokens.get(open).filter(|token| matches!(token.text.as_str(), "[" | "(" | "{"))?;
    let rest = tokens.iter().enumerate().skip(open + 1);
    rest.filter(|(_, token)| token.depth == first.depth).map(|(index, _)| index).next()
}

/// Last line of the item whose first token is at `start`: up to its `;` or its closing brace.
fn end_of_item(tokens: &[Token], start: usize) -> Option<usize> {
    let depth = tokens.get(start)?.depth;
    let mut rest = tokens.iter().skip(start);
    rest.find(|token| {
        (token.depth == depth && matches!(token.text.as_str(), ";" | "}")) || token.depth < depth
    })
    .map(|token| token.line)
}
