//! The order of the five places, and what is wrong with each.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use sancerre_engine::host::Random;

use super::*;

fn no_terminal(_: &str) -> std::io::Result<Zeroizing<String>> {
    Err(std::io::ErrorKind::NotFound.into())
}

fn found(environment: &Environment) -> Result<String, Failure> {
    find(environment, &no_terminal, OF_REPOSITORY).map(|found| found.expose_secret().to_owned())
}

/// All five places filled, with a folder that must outlive the variables.
fn everything() -> (tempfile::TempDir, Vec<(&'static str, String)>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "from the file\r\nsecond line\n").unwrap();
    std::fs::write(folder.path().join(CREDENTIAL), "from systemd\n").unwrap();
    let file = folder.path().join("file").display().to_string();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let variables = vec![
        (VALUE, "from the variable".to_owned()),
        (FILE, file),
        (COMMAND, "echo from the $WHERE; echo more".to_owned()),
        (CREDENTIALS, folder.path().display().to_string()),
        ("WHERE", "command".to_owned()),
        ("PATH", std::env::var("PATH").unwrap()),
    ];
    (folder, variables)
}

#[test]
fn the_first_place_that_is_set_wins() {
    let (_folder, mut variables) = everything();
    for expected in ["from the variable", "from the file", "from the command", "from systemd"] {
        let environment: Environment = variables.clone().into_iter().collect();
        assert!(is_given(&environment));
        assert_eq!(found(&environment).unwrap(), expected);
        variables.remove(0);
    }
    let environment: Environment = variables.into_iter().collect();
    assert!(!is_given(&environment));
    let typed = find(&environment, &|_: &str| Ok(Zeroizing::new("typed".into())), OF_REPOSITORY).unwrap();
    assert_eq!(typed.expose_secret(), "typed");
}

#[test]
fn a_place_that_is_set_to_nothing_is_passed_over_for_one_that_is_not() {
    let (_folder, variables) = everything();
    for empty in 1..=3 {
        let emptied = variables
            .iter()
            .enumerate()
            .map(|(at, (name, value))| (*name, if at < empty { String::new() } else { value.clone() }));
        let expected = ["from the file", "from the command", "from systemd"][empty - 1];
        assert_eq!(found(&emptied.collect()).unwrap(), expected);
    }
}

#[test]
fn what_is_not_utf8_is_refused_by_name_and_never_taken_for_unset() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let latin = || OsString::from_vec(b"s\xe9cret".to_vec());
    for name in [VALUE, COMMAND] {
        let failure = found(&[(name, latin())].into_iter().collect()).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.message.contains(name), "{}", failure.message);
    }
    // A path may be any bytes.
    let failure = found(&[(FILE, latin())].into_iter().collect()).unwrap_err();
    assert!(failure.message.contains("No such file"), "{}", failure.message);
}

#[test]
fn line_ends_and_marks_are_no_part_of_a_path_or_a_command() {
    let (folder, mut variables) = everything();
    variables[1].1.push_str("\r\n");
    variables[2].1.push_str("\r\n");
    let without = |names: usize| variables.iter().skip(names).cloned().collect::<Environment>();
    assert_eq!(found(&without(1)).unwrap(), "from the file");
    assert_eq!(found(&without(2)).unwrap(), "from the command");
    let wide: Vec<u8> = "secret\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(folder.path().join("file"), wide).unwrap();
    assert!(found(&without(1)).unwrap_err().message.contains("UTF-16"));
}

#[test]
fn without_place_and_terminal_the_places_are_named() {
    let failure = found(&Environment::default()).unwrap_err();
    assert_eq!(failure.exit, Exit::WrongKey);
    for place in [VALUE, FILE, COMMAND, CREDENTIAL] {
        assert!(failure.message.contains(place), "{}", failure.message);
    }
}

#[test]
fn a_place_that_is_set_but_useless_is_an_error_and_not_skipped() {
    let path = ("PATH", std::env::var("PATH").unwrap());
    let cases = [
        (VALUE, "", "empty"),
        (FILE, "/nonexistent/password", "/nonexistent/password"),
        (FILE, "/dev/null", "empty"),
        (COMMAND, "exit 3", "exit 3"),
        (COMMAND, "true", "empty"),
        (COMMAND, "printf '\\377'", "not text"),
    ];
    for (name, value, expected) in cases {
        let environment = [(name, value.to_owned()), path.clone()].into_iter().collect();
        let failure = found(&environment).unwrap_err();
        assert!(failure.message.contains(expected), "{name}={value}: {}", failure.message);
    }
}

/// Bytes that count up.
struct Counting;

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.iter_mut().zip(0..).for_each(|(byte, at)| *byte = at);
    }
}

fn host() -> Host {
    Host { random: Arc::new(Counting), ..Host::real("test") }
}

/// What [`host`] offers.
const OFFERED: &str = "0123-4567-89ab-cdef-ghjk-mnpq";

/// A person with these answers.
fn person(answers: [&'static str; 2]) -> impl Fn(&str) -> std::io::Result<Zeroizing<String>> {
    move |question: &str| {
        let [first, second] = answers;
        let is_first = question.contains(OFFERED);
        assert_eq!(question.contains("again"), !is_first, "{question}");
        Ok(Zeroizing::new(if is_first { first } else { second }.to_owned()))
    }
}

#[test]
fn a_strong_passphrase_is_offered_first_and_typed_again() {
    let chosen = |answers| {
        let chosen = find_first(&Environment::default(), &person(answers), &host());
        let new = find_new(None, &person(answers), &host());
        let text =
            |secret: Result<SecretString, Failure>| secret.map(|secret| secret.expose_secret().to_owned());
        let (chosen, new) = (text(chosen), text(new));
        assert_eq!(chosen.as_ref().ok(), new.as_ref().ok());
        chosen.map_err(|failure| (failure.exit, failure.message))
    };
    assert_eq!(chosen(["", OFFERED]).unwrap(), OFFERED);
    assert_eq!(chosen(["my own own", "my own own"]).unwrap(), "my own own");
    for differs in [["my own own", "my own owm"], ["", ""], ["", "my own own"]] {
        assert!(chosen(differs).unwrap_err().1.contains("differ"), "{differs:?}");
    }
    assert_eq!(chosen(["\u{feff}\r", "x"]).unwrap_err().0, Exit::Usage);
}

#[test]
fn every_letter_is_offered_and_none_twice_as_often() {
    let letters: BTreeSet<char> = LETTERS.chars().collect();
    assert_eq!((letters.len(), LETTERS.len()), (32, 32));
    assert!("ilou".chars().all(|letter| !letters.contains(&letter)));
    let (one, other) = (generate(&Host::real("test")), generate(&Host::real("test")));
    assert!(one.len() == OFFERED.len() && *one != *other);
}

#[test]
fn what_is_set_is_not_asked_for() {
    let given = [(VALUE, "it is given")].into_iter().collect();
    assert_eq!(find_first(&given, &no_terminal, &host()).unwrap().expose_secret(), "it is given");
    let empty = find(&Environment::default(), &|_: &str| Ok(Zeroizing::new(String::new())), OF_REPOSITORY);
    assert_eq!(empty.err().unwrap().exit, Exit::Usage);
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let (folder, _) = everything();
    let path = folder.path().join("file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let failure = found(&[(FILE, path.display().to_string())].into_iter().collect()).unwrap_err();
    assert!(failure.message.contains("chmod 600"), "{}", failure.message);
}

#[test]
fn the_command_does_not_see_the_passphrase() {
    let path = std::env::var("PATH").unwrap();
    let environment = [(VALUE, "secret"), ("PATH", path.as_str())].into_iter().collect();
    let seen = from_command("echo \"saw ${SANCERRE_PASSWORD-nothing}\"", &environment).unwrap();
    assert_eq!(seen.expose_secret(), "saw nothing");
}

#[test]
fn a_new_passphrase_is_not_short_and_an_old_one_may_be() {
    for short in ["a", "1234567", "\u{feff}1234567\r", "äöü"] {
        let given = [(VALUE, short)].into_iter().collect();
        let failure = find_first(&given, &no_terminal, &host()).err().unwrap();
        assert!(failure.exit == Exit::Usage && failure.message.contains("at least 8"), "{}", failure.message);
        assert_eq!(found(&given).unwrap(), short, "who has one opens the repository with it");
    }
    find_first(&[(VALUE, "12345678")].into_iter().collect(), &no_terminal, &host()).unwrap();
}

#[test]
fn what_is_short_or_says_the_same_again_is_weak() {
    let is_weak = |text: &str| weakness(&SecretString::from(text.to_owned())).is_some();
    for weak in ["12345678", "correct horse", "aaaaaaaaaaaaaaaaaaaaaaaa", "abcabcabcabcabcabc", "Summer2026!"]
    {
        assert!(is_weak(weak), "{weak}");
    }
    for strong in [OFFERED, "correct horse battery", "bhn3y4Vd0Yq3sJ5mJ0mX8ZQr"] {
        assert!(!is_weak(strong), "{strong}");
    }
}
