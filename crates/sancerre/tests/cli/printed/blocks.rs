//! The blocks of a page, between lines of three backticks, and what their first line says of them.

use super::words;

/// One block.
pub(crate) struct Block {
    /// Where it begins, from 1.
    pub(crate) line: usize,
    language: String,
    /// What else stands behind the language.
    pub(crate) words: Vec<String>,
    pub(crate) body: Vec<String>,
}

/// What is done with a block.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// A transcript: commands behind `$ `, and what they print.
    Console,
    /// Commands alone.
    Script,
    /// Lines of a file of cron.
    Cron,
    /// What goes beside a unit of systemd.
    DropIn,
    /// No command.
    Text,
    /// It needs what this word says.
    NotHere(&'a str),
}

/// A command and what a page shows below it.
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) printed: Vec<String>,
}

/// All blocks of a page.
pub(crate) fn of(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (at, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(info), None) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                open = Some(Block { line: at + 1, language, words: words.collect(), body: Vec::new() });
            }
            (None, Some(block)) => block.body.push(line.to_owned()),
            (None, None) => {}
        }
    }
    blocks
}

impl Block {
    pub(crate) fn kind(&self) -> Result<Kind<'_>, String> {
        let kind = match self.language.as_str() {
            "console" => Kind::Console,
            "sh" => Kind::Script,
            "cron" => Kind::Cron,
            "ini" => Kind::DropIn,
            "json" | "text" | "yaml" => return Ok(Kind::Text),
            "" => return Err("the block does not say what it is: console, sh, cron, ini or text".to_owned()),
            other => return Err(format!("{other} blocks are unknown")),
        };
        let mut kinds = self.words.iter().filter(|word| *word != "s3").map(|word| {
            let known = words::NOT_HERE.iter().any(|(name, _)| name == word);
            if known { Ok(Kind::NotHere(word)) } else { Err(format!("{word} is not among words::NOT_HERE")) }
        });
        kinds.next().unwrap_or(Ok(kind))
    }

    /// The commands of a transcript.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut lines = self.body.iter();
        while let Some(line) = lines.next() {
            let Some(first) = line.strip_prefix("$ ") else {
                let step =
                    steps.last_mut().unwrap_or_else(|| panic!("line {}: no command above it", self.line));
                step.printed.push(line.clone());
                continue;
            };
            let mut command = first.to_owned();
            while command.ends_with('\\') || !is_fed(&command) {
                command = format!("{command}\n{}", lines.next().unwrap());
            }
            steps.push(Step { command, printed: Vec::new() });
        }
        steps
    }
}

/// Whether what the command reads from itself (`<<END`) is there to its end.
fn is_fed(command: &str) -> bool {
    let (first, rest) = command.split_once('\n').unwrap_or((command, ""));
    let Some((_, word)) = first.split_once("<<") else { return true };
    let word = word.trim_start_matches(['-', ' ', '\'', '"']);
    let word: String = word.chars().take_while(|letter| letter.is_alphanumeric()).collect();
    word.is_empty() || rest.lines().any(|line| line == word)
}

/// Lines that look like commands and stand in no block, only four blanks further in.
pub(crate) fn indented_commands(text: &str) -> Vec<usize> {
    let mut inside = false;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        inside ^= line.starts_with("```");
        let command = line.strip_prefix("    ").unwrap_or_default();
        let is_command = ["$ ", "sancerre ", "cargo ", "aws ", "ssh-keygen ", "systemctl "];
        if !inside && is_command.iter().any(|start| command.starts_with(start)) {
            found.push(at + 1);
        }
    }
    found
}

/// Links to other files of this repository, with their lines.
pub(crate) fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for (start, _) in line.match_indices("](") {
            let target = line[start + 2..].split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                found.push((at + 1, target.to_owned()));
            }
        }
    }
    found
}
