//! Each rule with an example that breaks it and one that does not.

use super::source::Source;
use super::tree::{self, Use};
use super::{Finding, code, house, missing, rust, text};
use std::collections::BTreeMap;

const ENGINE: &str = "crates/sancerre-engine/src/backup.rs";

fn check(path: &str, body: &str) -> Vec<Finding> {
    let text = format!("//! Example.\n{body}");
    code::check(path, &Source::parse(&text).unwrap(), Use::Product)
}

fn only(findings: &[Finding], line: usize, part: &str) {
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].line, line, "{findings:?}");
    assert!(findings[0].message.contains(part), "{findings:?}");
}

fn function(name: &str, lines: usize) -> String {
    format!("fn {name}() {{\n{}}}\n", "    work();\n".repeat(lines - 2))
}

#[test]
fn a_file_starts_with_its_documentation() {
    let bare = Source::parse("fn a() {}\n").unwrap();
    only(&code::check(ENGINE, &bare, Use::Product), 1, "`//!`");
    assert_eq!(check(ENGINE, "fn a() {}\n"), []);
}

#[test]
fn a_function_has_at_most_70_lines_wherever_it_stands() {
    assert_eq!(check(ENGINE, &function("fits", 70)), []);
    only(&check(ENGINE, &function("long", 71)), 2, "`long` has 71 lines");
    only(&check(ENGINE, &format!("impl A {{\n{}}}\n", function("method", 71))), 3, "`method`");
    only(&check(ENGINE, &format!("m! {{\n{}}}\n", function("in_macro", 71))), 3, "`in_macro`");
    let nested = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function("test", 71));
    only(&check(ENGINE, &nested), 4, "`test`");
    only(&check("tests/it/main.rs", &function("anywhere", 71)), 2, "`anywhere`");
}

#[test]
fn a_function_without_body_or_with_a_function_type_is_not_measured() {
    let declared = format!("trait A {{ fn a(&self);\n{}fn b(f: fn(u8) -> u8); }}\n", "\n".repeat(80));
    assert_eq!(check(ENGINE, &declared), []);
}

#[test]
fn a_product_file_has_at_most_450_lines_before_its_tests() {
    let constants = |count: usize| "const A: u8 = 1;\n".repeat(count);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", constants(500));
    assert_eq!(check(ENGINE, &format!("{}{tests}", constants(449))), []);
    only(&check(ENGINE, &format!("{}{tests}", constants(450))), 1, "451 lines");
    assert_eq!(check("xtask/src/main.rs", &constants(450)), []);
}

#[test]
fn product_code_does_not_panic() {
    for (call, what) in [
        ("a.unwrap();", "`.unwrap()`"),
        ("a.expect(\"\");", "`.expect()`"),
        ("panic!();", "`panic!`"),
        ("unreachable!();", "`unreachable!`"),
    ] {
        only(&check(ENGINE, &format!("fn a() {{\n{call}\n}}\n")), 3, what);
        assert_eq!(check(ENGINE, &format!("fn a() {{\n{call} // invariant: length checked above\n}}\n")), []);
        assert_eq!(
            check(ENGINE, &format!("fn a() {{\n// invariant: length checked above\n{call}\n}}\n")),
            []
        );
        assert_eq!(check(ENGINE, &format!("#[test]\nfn a() {{\n{call}\n}}\n")), []);
        assert_eq!(check("benches/src/lib.rs", &format!("fn a() {{\n{call}\n}}\n")), []);
    }
}

#[test]
fn a_library_names_no_flag_and_no_command_of_ours() {
    for text in
        ["run `sancerre check`", "restore with --overwrite", "replace it (--overwrite)", "--memory is short"]
    {
        only(&check(ENGINE, &format!("const A: &str = \"{text}\";\n")), 2, "`Verb` or a `Setting`");
        assert_eq!(check(ENGINE, &format!("/// {text}\nconst A: u8 = 1; // {text}\n")), []);
        assert_eq!(check(ENGINE, &format!("#[test]\nfn a() {{\nb(\"{text}\");\n}}\n")), []);
        assert_eq!(check("crates/sancerre/src/a.rs", &format!("const A: &str = \"{text}\";\n")), []);
    }
    for text in ["--domain", "a -- b", "run {Check}", "`virsh list --all` shows them", "nothing--at all"] {
        assert_eq!(check(ENGINE, &format!("const A: &str = \"{text}\";\n")), []);
    }
}

#[test]
fn a_store_alone_gives_no_right() {
    let import = "use crate::store::Removal;\n";
    only(&check(ENGINE, import), 2, "only collectors delete");
    assert_eq!(check("crates/sancerre-engine/src/gc/sweep.rs", import), []);
    only(&check("crates/sancerre/src/a.rs", "use sancerre_engine::store::Creation;\n"), 2, "`Creation`");
    assert_eq!(check(ENGINE, "use crate::store::Creation;\n"), []);
    only(&check(ENGINE, "use crate::store::Locking;\n"), 2, "`Locking`");
    assert_eq!(check("crates/sancerre-engine/src/backup/a.rs", "// Removal\n"), []);
}

#[test]
fn nothing_is_made_up_on_the_path_of_bytes() {
    const GATHER: &str = "crates/sancerre-engine/src/gc/gather.rs";
    for (code, what) in [
        ("a.unwrap_or_default();", "unwrap_or_default"),
        ("a.saturating_add(1);", "saturating_add"),
        ("let Some(a) = b else { return Ok(()) };", "else { return"),
        ("debug_assert!(a);", "debug_assert!"),
    ] {
        only(&check(GATHER, &format!("fn a() {{\n{code}\n}}\n")), 3, what);
        assert_eq!(check(GATHER, &format!("fn a() {{\n// invariant: none was begun\n{code}\n}}\n")), []);
        assert_eq!(check(&GATHER.replace("gather", "plan"), &format!("fn a() {{\n{code}\n}}\n")), []);
        assert_eq!(check(ENGINE, &format!("fn a() {{\n{code}\n}}\n")), []);
    }
}

#[test]
fn what_only_looks_like_a_panic_is_left_alone() {
    assert_eq!(check(ENGINE, "// a.unwrap()\nfn a() { b(\".unwrap()\"); c.unwrap_or(1); }\n"), []);
    only(&check(ENGINE, "#[cfg(not(test))]\nfn a() {\nb.unwrap(); }\n"), 4, "unwrap");
    only(&check(ENGINE, "#[test]\nfn a() {}\nfn b() {\nc.unwrap(); }\n"), 5, "unwrap");
}

#[test]
fn nothing_is_left_over() {
    for name in ["todo", "unimplemented", "dbg"] {
        only(&check("tests/it/main.rs", &format!("fn a() {{ {name}!() }}\n")), 2, "left over");
    }
}

#[test]
fn unsafe_code_is_refused_and_the_lint_that_forbids_it_is_not() {
    only(&check("tests/it/main.rs", "fn a() {\nunsafe { b() } }\n"), 3, "`unsafe`");
    assert_eq!(check(ENGINE, "#![forbid(unsafe_code)]\n"), []);
}

#[test]
fn clock_randomness_sleep_and_terminal_are_handed_in() {
    for use_of in [
        "Instant::now()",
        "std::time::SystemTime::now()",
        "rand::random()",
        "std::thread::sleep(d)",
        "println!()",
    ] {
        let body = format!("fn a() {{ {use_of}; }}\n");
        only(&check(ENGINE, &body), 2, "take it as an argument");
        only(&check("crates/sancerre-format/src/seal.rs", &body), 2, "take it as an argument");
        assert_eq!(check("crates/sancerre/src/lib.rs", &body), []);
        assert_eq!(check("crates/sancerre-repository/src/host.rs", &body), []);
        assert_eq!(check(ENGINE, &format!("#[cfg(test)]\nmod tests {{ {body} }}\n")), []);
    }
}

#[test]
fn bytes_and_disks_are_read_in_calls_that_block() {
    let body = "async fn a() {}\n";
    only(&check("crates/sancerre-format/src/seal.rs", body), 2, "`async`");
    only(&check("crates/sancerre-image/src/open.rs", body), 2, "`async`");
    assert_eq!(check(ENGINE, body), []);
    assert_eq!(
        check("crates/sancerre-image/src/open.rs", "#[cfg(test)]\nmod tests { async fn a() {} }\n"),
        []
    );
}

#[test]
fn a_folder_of_one_machine_is_named() {
    let folder = concat!("/wo", "rk/");
    only(&text::check("README.md", &format!("\nls {folder}main\n")), 2, "of one machine");
    assert_eq!(text::check("README.md", &format!("ls target{folder}main $TMP{folder}a\n")), []);
}

#[test]
fn only_known_hosts_and_examples_are_named() {
    only(
        &text::check("a.toml", concat!("index = \"sparse+https:/", "/mirror.hospital.fr/index/\"\n")),
        1,
        "mirror.hospital.fr",
    );
    only(&text::check("a.md", concat!("see https:/", "/user@evil.net:80/x\n")), 1, "evil.net");
    let fine =
        "https://docs.rs/age http://127.0.0.1:9000/ https://{host}/a https://s3.example.com s3://bucket/a\n";
    assert_eq!(text::check("a.md", fine), []);
}

#[test]
fn markers_of_unfinished_work_are_words() {
    for marker in [concat!("FIX", "ME"), concat!("XX", "X")] {
        only(&text::check("a.rs", &format!("// {marker}: later\n")), 1, marker);
        assert_eq!(text::check("a.sh", &format!("mktemp {marker}{marker}\n")), []);
        assert_eq!(text::check("a.md", &format!("never write {marker}\n")), []);
    }
}

#[test]
fn required_documents_are_missed() {
    let messages = missing(&["README.md".to_owned()]);
    assert!(!messages.iter().any(|finding| finding.path == "README.md"));
    assert!(messages.iter().any(|finding| finding.path == "docs/FORMAT.md"));
}

fn files(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(path, body)| ((*path).to_owned(), format!("//! Example.\n{body}"))).collect()
}

#[test]
fn the_module_tree_tells_dead_files_and_test_files() {
    let texts = files(&[
        (
            "crates/a/src/lib.rs",
            "mod used;\nmod outer { mod inner; }\n#[cfg(test)]\nmod tests;\n#[path = \"odd.rs\"]\nmod b;\n",
        ),
        ("crates/a/src/used.rs", "mod below;\n"),
        ("crates/a/src/used/below.rs", "fn a() { b.unwrap(); }\n"),
        ("crates/a/src/outer/inner.rs", ""),
        ("crates/a/src/odd.rs", ""),
        ("crates/a/src/tests.rs", "mod deep;\nfn a() { b.unwrap(); }\n"),
        ("crates/a/src/tests/deep.rs", "fn a() { b.unwrap(); }\n"),
        ("crates/a/src/dead.rs", ""),
        ("tests/fuzz/fuzz_targets/a.rs", ""),
    ]);
    let findings = rust(&texts, &[("crates/a/src/lib.rs".to_owned(), Use::Product)]);
    let places: Vec<&str> = findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(places, ["crates/a/src/used/below.rs", "crates/a/src/dead.rs"], "{findings:?}");
}

#[test]
fn a_module_without_a_tracked_file_is_found_where_it_is_declared() {
    let texts = files(&[("src/lib.rs", "mod there;\nmod lost;\n"), ("src/there.rs", "")]);
    only(&rust(&texts, &[("src/lib.rs".to_owned(), Use::Product)]), 3, "not tracked");
}

#[test]
fn a_file_used_by_product_and_tests_is_product() {
    let texts =
        files(&[("src/lib.rs", "#[cfg(test)]\nmod a;\n"), ("src/main.rs", "mod a;\n"), ("src/a.rs", "")]);
    let sources = texts.iter().map(|(path, text)| (path.clone(), Source::parse(text).unwrap())).collect();
    for order in [["src/lib.rs", "src/main.rs"], ["src/main.rs", "src/lib.rs"]] {
        let targets = order.map(|path| (path.to_owned(), Use::Product));
        assert_eq!(tree::uses(&targets, &sources)["src/a.rs"], Use::Product);
    }
}

fn sources(files: &[(&str, &str)]) -> BTreeMap<String, Source> {
    files.iter().map(|(path, text)| ((*path).to_owned(), Source::parse(text).unwrap())).collect()
}

#[test]
fn modules_that_use_each_other_in_a_circle_are_found() {
    let one = ("crates/sancerre-store/src/a.rs", "use crate::b::B;");
    let there = [one, ("crates/sancerre-store/src/b.rs", "fn b() { crate::{c::C, x}; }")];
    let back = ("crates/sancerre-store/src/c/mod.rs", "use crate::a;");
    let test = ("crates/sancerre-store/src/c/mod.rs", "#[cfg(test)]\nmod tests { use crate::a; }");
    let check = |files: &[(&str, &str)]| house::check(&BTreeMap::new(), &sources(files));
    assert_eq!(check(&[&there[..], &[test]].concat()), []);
    let found = check(&[&there[..], &[back]].concat());
    assert!(found.len() == 1 && found[0].message.contains("a, b, c"), "{found:?}");
}

#[test]
fn a_layer_uses_only_those_below_and_a_name_is_given_once() {
    let manifest = "[dependencies]\nsancerre-engine.workspace = true\n[dev-dependencies]\nsancerre-engine.workspace = true\n";
    let texts = BTreeMap::from([("crates/sancerre-store/Cargo.toml".to_owned(), manifest.to_owned())]);
    let found = house::check(&texts, &BTreeMap::new());
    assert!(found.len() == 1 && found[0].line == 2, "{found:?}");
    let twins = sources(&[
        ("crates/sancerre-store/src/a.rs", "pub struct Twin;"),
        ("crates/sancerre-confine/src/b.rs", "pub enum Twin {}\nstruct Other;\npub(crate) struct Other2;"),
    ]);
    let found = house::check(&BTreeMap::new(), &twins);
    assert!(found.len() == 1 && found[0].message.contains("Twin"), "{found:?}");
}
