//! The order of the five places, and what is wrong with each.

use std::os::unix::fs::PermissionsExt;

use sancerre_engine::keys::ExposeSecret;

use super::*;

fn no_terminal(_: &str) -> std::io::Result<Zeroizing<String>> {
    Err(std::io::ErrorKind::NotFound.into())
}

fn found(environment: &Environment) -> Result<String, Failure> {
    find(environment, &no_terminal, OF_REPOSITORY).map(|found| found.secret.expose_secret().to_owned())
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
    assert_eq!((typed.secret.expose_secret(), typed.typed), ("typed", true));
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

#[test]
fn only_a_typed_passphrase_is_asked_twice() {
    let right = |_: &str| Ok(Zeroizing::new("typed".to_owned()));
    let wrong = |_: &str| Ok(Zeroizing::new("tyqed".to_owned()));
    let typed = find(&Environment::default(), &right, OF_REPOSITORY).unwrap();
    confirm(&typed, &right).unwrap();
    assert!(confirm(&typed, &wrong).unwrap_err().message.contains("differ"));
    let given = find(&[(VALUE, "given")].into_iter().collect(), &no_terminal, OF_REPOSITORY).unwrap();
    confirm(&given, &no_terminal).unwrap();
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
