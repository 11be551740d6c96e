//! Rules over the tokens of Rust files.

use super::Finding;
use super::source::{Source, Token, end_of_group};
use super::tree::Use;

/// Longest function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Longest product file, test items not counted.
const FILE_LINES_MAX: usize = 450;

/// Where product code lives; tests, benches and automation may panic and print.
const PRODUCT: &str = "crates/";
/// Packages that take clock, randomness and terminal as arguments.
const PURE: [&str; 4] = [
    "crates/sancerre-format/src/",
    "crates/sancerre-store/src/",
    "crates/sancerre-repository/src/",
    "crates/sancerre-engine/src/",
];
/// Packages whose calls return when they are done: what waits, and on which threads, is their caller's.
const BLOCKING: [&str; 2] = ["crates/sancerre-format/src/", "crates/sancerre-image/src/"];
/// The one module that makes the real clock and the real randomness which everything else is handed.
const AMBIENT_SOURCES: &[&str] =
    &["crates/sancerre-repository/src/host.rs", "crates/sancerre-store/src/clock.rs"];
/// Modules that may hold `unsafe` code: none yet.
const UNSAFE_ALLOWED: &[&str] = &[];

const PANICS: &[(&[&str], &str)] = &[
    (&[".", "unwrap", "("], "`.unwrap()`"),
    (&[".", "expect", "("], "`.expect()`"),
    (&["panic", "!"], "`panic!`"),
    (&["unreachable", "!"], "`unreachable!`"),
];

/// Where a value that is made up instead of an error would become less data in a snapshot, or one pack too many that goes.
const BYTES: [&str; 3] = [
    "crates/sancerre-engine/src/backup/",
    "crates/sancerre-engine/src/gc/",
    "crates/sancerre-repository/src/session.rs",
];
/// Modules there that only weigh what work is worth, with sizes that others state.
const WEIGHING: [&str; 4] = ["/gc/plan.rs", "/gc/wait.rs", "/backup/budget.rs", "/backup/ending.rs"];
const SILENT: &[(&[&str], &str)] = &[
    (&[".", "unwrap_or_default", "("], "`.unwrap_or_default()`"),
    (&[".", "saturating_add", "("], "`.saturating_add()`"),
    (&[".", "saturating_sub", "("], "`.saturating_sub()`"),
    (&[".", "saturating_mul", "("], "`.saturating_mul()`"),
    (&["else", "{", "return", "Ok", "(", "(", ")", ")"], "`else { return Ok(()) }`"),
    (&["debug_assert", "!"], "`debug_assert!`"),
];

/// The package that knows how its users call things; all others name a `Verb` or a `Setting`.
const COMMAND_LINE: &str = "crates/sancerre/";
/// Programs of others, whose flags messages may name.
const OTHER_PROGRAMS: [&str; 5] = ["virsh ", "qemu-img ", "rbd ", "blockdev ", "nbdinfo "];

/// Rights over a store that a `Store` alone does not give: the trait, who may import it, and what others are told.
const RIGHTS: &[(Pattern, &[&str], &str)] = &[
    (
        (&["Removal"], "`Removal`"),
        &[
            "crates/sancerre-store/src/",
            "crates/sancerre-engine/src/gc/",
            "crates/sancerre-repository/src/keys/recipients.rs",
        ],
        "only collectors delete",
    ),
    (
        (&["Creation"], "`Creation`"),
        &["crates/sancerre-store/src/", "crates/sancerre-repository/src/", "crates/sancerre-engine/src/"],
        "only the crates of repositories write to a store",
    ),
    (
        (&["Locking"], "`Locking`"),
        &[
            "crates/sancerre-store/src/",
            "crates/sancerre-engine/src/lock.rs",
            "crates/sancerre-engine/src/lock/",
        ],
        "only the extension of locks locks",
    ),
];

const LEFTOVERS: &[(&[&str], &str)] =
    &[(&["todo", "!"], "`todo!`"), (&["unimplemented", "!"], "`unimplemented!`"), (&["dbg", "!"], "`dbg!`")];

const AMBIENT: &[(&[&str], &str)] = &[
    (&["SystemTime", ":", ":", "now"], "the system clock"),
    (&["Instant", ":", ":", "now"], "the monotonic clock"),
    (&["Timestamp", ":", ":", "now"], "the system clock"),
    (&["Zoned", ":", ":", "now"], "the system clock"),
    (&["rand", ":", ":"], "randomness"),
    (&["getrandom", ":", ":"], "randomness"),
    (&["OsRng"], "randomness"),
    (&["thread", ":", ":", "sleep"], "a sleep"),
    (&["println", "!"], "the terminal"),
    (&["eprintln", "!"], "the terminal"),
    (&["print", "!"], "the terminal"),
    (&["eprint", "!"], "the terminal"),
];

/// All findings in one file.
pub(super) fn check(path: &str, source: &Source, role: Use) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(module_documentation(path, source));
    findings.extend(long_functions(path, source));
    findings.extend(leftovers(path, source));
    findings.extend(unsafe_code(path, source));
    if path.starts_with(PRODUCT) && role == Use::Product {
        findings.extend(long_file(path, source));
        findings.extend(panics(path, source));
        findings.extend(ambient(path, source));
        findings.extend(waiting(path, source));
        findings.extend(silent_defaults(path, source));
        findings.extend(spelled(path, source));
        findings.extend(rights(path, source));
    }
    findings
}

fn module_documentation(path: &str, source: &Source) -> Option<Finding> {
    let is_documented = source.text.lines().next().is_some_and(|line| line.starts_with("//! "));
    (!is_documented)
        .then(|| Finding::new(path, 1, "the file does not start with `//!` saying what it is for"))
}

fn long_functions(path: &str, source: &Source) -> Vec<Finding> {
    let functions = functions(&source.tokens).into_iter();
    let long = functions.filter(|function| function.lines > FUNCTION_LINES_MAX);
    long.map(|function| {
        let message = format!(
            "function `{}` has {} lines, at most {FUNCTION_LINES_MAX} are allowed: split it by what it does",
            function.name, function.lines
        );
        Finding::new(path, function.line, message)
    })
    .collect()
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    lines: usize,
}

/// All functions with a body: free, methods, nested, in tests and inside macro calls.
fn functions(tokens: &[Token]) -> Vec<Function<'_>> {
    let starts =
        tokens.windows(2).enumerate().filter(|(_, pair)| pair[0].text == "fn" && is_name(&pair[1].text));
    starts
        .filter_map(|(index, pair)| {
            let close = body_end(tokens, index)?;
            Some(Function { name: &pair[1].text, line: pair[0].line, lines: close.line - pair[0].line + 1 })
        })
        .collect()
}

/// The closing brace of the function whose `fn` is at `start`; none if it has no body.
fn body_end(tokens: &[Token], start: usize) -> Option<&Token> {
    let depth = tokens[start].depth;
    let mut same_level = tokens.iter().enumerate().skip(start).filter(|(_, token)| token.depth == depth);
    let (open, _) = same_level.find(|(_, token)| matches!(token.text.as_str(), "{" | ";"))?;
    end_of_group(tokens, open).map(|close| &tokens[close])
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn long_file(path: &str, source: &Source) -> Option<Finding> {
    let lines = source.product_lines();
    (lines > FILE_LINES_MAX).then(|| {
        let message =
            format!("{lines} lines before tests, at most {FILE_LINES_MAX} are allowed: split the file");
        Finding::new(path, 1, message)
    })
}

fn panics(path: &str, source: &Source) -> Vec<Finding> {
    let hits = product_hits(source, PANICS).into_iter();
    hits.filter(|(line, _)| !source.states_invariant(*line))
        .map(|(line, what)| {
            let advice = "return an error, or end the line with `// invariant: why it cannot happen`";
            Finding::new(path, line, format!("{what} in product code: {advice}"))
        })
        .collect()
}

fn silent_defaults(path: &str, source: &Source) -> Vec<Finding> {
    let is_weighing = WEIGHING.iter().any(|name| path.ends_with(name));
    if is_weighing || !BYTES.iter().any(|prefix| path.starts_with(prefix)) {
        return Vec::new();
    }
    let hits = product_hits(source, SILENT).into_iter();
    hits.filter(|(line, _)| !source.states_invariant(*line))
        .map(|(line, what)| {
            let advice =
                "return an error, use `invariant!`, or end the line with `// invariant: why it is right`";
            Finding::new(path, line, format!("{what} on the path of bytes: {advice}"))
        })
        .collect()
}

fn rights(path: &str, source: &Source) -> Vec<Finding> {
    let of_others =
        RIGHTS.iter().filter(|(_, owners, _)| !owners.iter().any(|owner| path.starts_with(owner)));
    let found = of_others.flat_map(|(right, _, told)| {
        let hits = product_hits(source, &[*right]).into_iter();
        hits.map(move |(line, what)| Finding::new(path, line, format!("{what}: {told}")))
    });
    found.collect()
}

/// Sentences of a library that name flags or commands of our command line.
fn spelled(path: &str, source: &Source) -> Vec<Finding> {
    if path.starts_with(COMMAND_LINE) {
        return Vec::new();
    }
    let places = source.tokens.iter().enumerate();
    let texts = places.filter(|(index, token)| {
        // The text of a `///` is a literal too.
        let is_doc = index.checked_sub(2).is_some_and(|before| source.matches(before, &["doc", "="]));
        token.text.contains('"') && !is_doc && !source.is_test_line(token.line)
    });
    let named = texts.filter(|(_, token)| {
        let is_foreign = OTHER_PROGRAMS.iter().any(|program| token.text.contains(program));
        token.text.contains("`sancerre ") || has_flag(&token.text) && !is_foreign
    });
    let advice = "name a `Verb` or a `Setting` of sancerre-advice, which the program spells";
    named
        .map(|(_, token)| {
            Finding::new(path, token.line, format!("a flag or command in a library's text: {advice}"))
        })
        .collect()
}

/// Whether a text of several words has one that begins as a flag does. A flag alone is an argument of another program.
fn has_flag(text: &str) -> bool {
    let is_flag = |word: &str| {
        let name = word.trim_start_matches(['"', '(', '`']).strip_prefix("--");
        name.is_some_and(|name| name.starts_with(|letter: char| letter.is_ascii_lowercase()))
    };
    text.split_whitespace().nth(1).is_some() && text.split_whitespace().any(is_flag)
}

fn leftovers(path: &str, source: &Source) -> Vec<Finding> {
    hits(source, LEFTOVERS)
        .into_iter()
        .map(|(line, what)| Finding::new(path, line, format!("{what} left over")))
        .collect()
}

fn unsafe_code(path: &str, source: &Source) -> Vec<Finding> {
    if UNSAFE_ALLOWED.contains(&path) {
        return Vec::new();
    }
    let found = hits(source, &[(&["unsafe"], "`unsafe`")]).into_iter();
    found
        .map(|(line, what)| {
            Finding::new(path, line, format!("{what} outside the modules allowed to hold it"))
        })
        .collect()
}

fn ambient(path: &str, source: &Source) -> Vec<Finding> {
    let is_pure = PURE.iter().any(|prefix| path.starts_with(prefix));
    if !is_pure || AMBIENT_SOURCES.contains(&path) {
        return Vec::new();
    }
    let found = product_hits(source, AMBIENT).into_iter();
    found
        .map(|(line, what)| Finding::new(path, line, format!("uses {what} directly: take it as an argument")))
        .collect()
}

fn waiting(path: &str, source: &Source) -> Vec<Finding> {
    if !BLOCKING.iter().any(|prefix| path.starts_with(prefix)) {
        return Vec::new();
    }
    let found = product_hits(source, &[(&["async"], "`async`")]).into_iter();
    found
        .map(|(line, what)| {
            Finding::new(path, line, format!("{what} in a package whose calls block: wait in the engine"))
        })
        .collect()
}

type Pattern = (&'static [&'static str], &'static str);

fn product_hits(source: &Source, patterns: &[Pattern]) -> Vec<(usize, &'static str)> {
    hits(source, patterns).into_iter().filter(|(line, _)| !source.is_test_line(*line)).collect()
}

/// Line and meaning of each place where one of `patterns` starts.
fn hits(source: &Source, patterns: &[Pattern]) -> Vec<(usize, &'static str)> {
    let places = source.tokens.iter().enumerate();
    places
        .flat_map(|(index, token)| {
            let matching = patterns.iter().filter(move |(pattern, _)| source.matches(index, pattern));
            matching.map(move |(pattern, what)| {
                let line = source.tokens.get(index + pattern.len() - 1).map_or(token.line, |last| last.line);
                (line, *what)
            })
        })
        .collect()
}
