//! Lines of `/etc/cron.d`, read as cron reads them.

/// A line that runs something.
pub(crate) struct Line {
    /// The settings above it, for a shell.
    pub(crate) settings: String,
    /// What is run: up to the first `%` without a backslash.
    pub(crate) command: String,
}

/// All lines that run something.
pub(crate) fn lines(body: &[String]) -> Vec<Line> {
    let mut settings = String::new();
    let mut found = Vec::new();
    for line in body.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let setting =
            line.split_once('=').filter(|(name, _)| name.chars().all(|c| c.is_alphanumeric() || c == '_'));
        match setting {
            Some((name, value)) => settings.push_str(&format!("export {name}='{value}'\n")),
            None => found.push(Line { settings: settings.clone(), command: command(line) }),
        }
    }
    found
}

/// Behind five fields of time and the user.
fn command(line: &str) -> String {
    let mut rest = line;
    for _ in 0..6 {
        let (_, behind) =
            rest.split_once(char::is_whitespace).unwrap_or_else(|| panic!("no line of cron: {line}"));
        rest = behind.trim_start();
    }
    let rest = rest.replace("\\%", "\u{1}");
    rest.split('%').next().unwrap_or_default().replace('\u{1}', "%")
}
