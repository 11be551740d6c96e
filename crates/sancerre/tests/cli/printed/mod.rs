//! One page: its blocks are run in one shell, in order, and compared.

pub(crate) mod blocks;
mod compare;
mod cron;
mod places;
mod shell;
mod units;
pub(crate) mod words;

use std::path::{Path, PathBuf};
use std::process::Command;

use blocks::{Block, Kind};
use compare::Learned;
use places::Places;
use shell::Shell;

/// The repository's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The pages, by their paths below the root. FORMAT.md is for programmers and has an own test for its example.
pub(crate) fn pages() -> Vec<String> {
    let names = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| format!("docs/{}", name.to_string_lossy()));
    let mut pages: Vec<String> =
        names.filter(|name| name.ends_with(".md") && name != "docs/FORMAT.md").collect();
    pages.push("README.md".to_owned());
    pages.sort();
    pages
}

pub(crate) fn page_text(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap()
}

/// Runs a page, and says of each command that does something else than the page shows what it does.
pub(crate) fn run(page: &str) {
    let text = page_text(page);
    let blocks = blocks::of(&text);
    let needs_s3 = blocks.iter().any(|block| block.words.iter().any(|word| word == "s3"));
    if !programs_are_here() {
        return;
    }
    let Some(mut trial) = Trial::new(page, needs_s3) else { return };
    for block in &blocks {
        match block.kind().unwrap_or_else(|problem| panic!("{page}:{}: {problem}", block.line)) {
            Kind::Text => {}
            Kind::NotHere(word) => {
                eprintln!("NOT RUN {page}:{} ({word}: {})", block.line, words::need(word));
            }
            Kind::Console => trial.console(block),
            Kind::Script => trial.script(block),
            Kind::Cron => trial.cron(block),
            Kind::DropIn => units::drop_in(trial.folder.path(), &trial.places.inward(&block.body.join("\n"))),
        }
    }
    trial.problems.extend(units::verify(trial.folder.path()));
    eprintln!("{page}: {} commands ran", trial.ran);
    if std::env::var_os("SANCERRE_BLESS").is_some() && trial.blessed != text {
        std::fs::write(root().join(page), &trial.blessed).unwrap();
    }
    assert!(trial.problems.is_empty(), "{page}:\n{}", trial.problems.join("\n\n"));
}

/// Whether the programs that pages type are here; in CI they must be.
fn programs_are_here() -> bool {
    let is_missing = |program: &&&str| {
        let mut found = Command::new("sh");
        found.args(["-c", "command -v \"$0\" > /dev/null", program]).env("PATH", shell::search_path());
        !found.status().is_ok_and(|status| status.success())
    };
    let missing: Vec<_> = words::PROGRAMS.iter().filter(is_missing).collect();
    if !missing.is_empty() {
        sancerre_services::skip(&format!("missing: {missing:?}"));
    }
    missing.is_empty()
}

/// A page under way.
struct Trial {
    page: String,
    folder: tempfile::TempDir,
    places: Places,
    shell: Shell,
    learned: Learned,
    problems: Vec<String>,
    ran: usize,
    /// The page with the outputs that were really printed.
    blessed: String,
}

impl Trial {
    /// With all that is there before the page begins; none, said loudly, where there is no server and one is needed.
    fn new(page: &str, needs_s3: bool) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("page").tempdir().unwrap();
        let places = Places::new(folder.path(), if needs_s3 { words::bucket()? } else { Vec::new() });
        for made in [".run", ".bin"] {
            std::fs::create_dir(folder.path().join(made)).unwrap();
        }
        let link = folder.path().join(".bin/sancerre");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sancerre"), link).unwrap();
        units::install(folder.path(), &places);
        let mut shell = Shell::new(folder.path());
        let before = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/printed/before");
        let script =
            |name: &str| std::fs::read_to_string(before.join(name)).ok().map(|text| places.inward(&text));
        for shared in ["site", "bucket-site"] {
            let text = script(&format!("{shared}.sh")).unwrap();
            std::fs::write(folder.path().join(".run").join(shared), text).unwrap();
        }
        let own = page.rsplit('/').next().unwrap().replace(".md", ".sh");
        for text in ["given.sh", own.as_str()].into_iter().filter_map(script) {
            let ended = shell.run(&format!("set -e\n{text}\nset +e"), "/dev/null");
            assert!(ended.as_ref().is_ok_and(|done| done.status == 0), "before {page}: {ended:?}\n{text}");
        }
        let learned = Learned::from_file(&folder.path().join(".placeholders"));
        let (page, blessed) = (page.to_owned(), page_text(page));
        Some(Self { page, folder, places, shell, learned, problems: Vec::new(), ran: 0, blessed })
    }

    /// What is really run: what the page printed before and types again is what was printed here.
    fn inward(&self, text: &str) -> String {
        self.places.inward(&self.learned.replace(text))
    }

    fn problem(&mut self, block: &Block, what: &str) {
        self.problems.push(format!("{}:{}: {what}", self.page, block.line));
    }

    /// A transcript: each command with what it prints. One that fails is followed by `echo $?`.
    fn console(&mut self, block: &Block) {
        let steps = block.steps();
        let mut shown = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            self.ran += 1;
            let typed = words::TYPED.iter().find(|(command, _)| *command == step.command);
            let input = typed.map_or("/dev/null", |(_, file)| *file);
            let command = self.inward(&step.command);
            let done = match self.shell.run(&command, input) {
                Ok(done) => done,
                Err(said) => {
                    panic!("{}:{}: the shell ended at {:?}: {said}", self.page, block.line, step.command)
                }
            };
            let got = self.places.outward(&done.said);
            let got = got.trim_end_matches('\n');
            let may_fail = steps.get(at + 1).is_some_and(|next| next.command == "echo $?");
            let printed = step.printed.join("\n");
            let fits = self.learned.compare(printed.trim_end_matches('\n'), got);
            if !fits || (done.status != 0 && !may_fail) {
                let what = format!(
                    "$ {}\nprinted:\n{printed}\ngot, and exit code {}:\n{got}",
                    step.command, done.status
                );
                self.problem(block, &what);
            }
            shown.push(format!("$ {}", step.command));
            let now = if fits { printed } else { self.learned.outward(got) };
            shown.extend(Some(now).filter(|now| !now.is_empty()));
        }
        let (old, new) = (block.body.join("\n"), shown.join("\n"));
        self.blessed = self.blessed.replacen(&format!("\n{old}\n```"), &format!("\n{new}\n```"), 1);
    }

    /// A script: every command of it succeeds.
    fn script(&mut self, block: &Block) {
        self.ran += 1;
        let text = format!("set -e\n{}\nset +eu", self.inward(&block.body.join("\n")));
        match self.shell.run(&text, "/dev/null") {
            Ok(done) if done.status == 0 => {}
            Ok(done) => self.problem(block, &format!("exit code {}: {}", done.status, done.said)),
            Err(said) => panic!("{}:{}: the script ended early: {said}", self.page, block.line),
        }
    }

    /// Lines of cron: each succeeds and prints nothing, else somebody gets mail each night.
    fn cron(&mut self, block: &Block) {
        for line in cron::lines(&block.body) {
            self.ran += 1;
            let run = format!("PATH={}/.bin:$PATH\n", self.folder.path().display());
            let script = format!("{}{run}{}\n", self.inward(&line.settings), self.inward(&line.command));
            let file = self.folder.path().join(".run/cron");
            std::fs::write(&file, script).unwrap();
            let home = self.folder.path().display();
            let command = format!("env -i HOME={home} PATH=/usr/bin:/bin sh {}", file.display());
            let done = self.shell.run(&command, "/dev/null").unwrap();
            if done.status != 0 || !done.said.trim().is_empty() {
                let what = format!("{}\nmails, and exit code {}: {}", line.command, done.status, done.said);
                self.problem(block, &what);
            }
        }
    }
}
