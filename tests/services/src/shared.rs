//! One running server for all the processes of a test run.
//!
//! Every test may be a process of its own, and a server takes seconds to start. So whoever needs it holds a *shared*
//! lock on `users` for as long as its process lives, which the kernel lets go however the process ends. Beside the
//! server runs a watchman, a few lines of shell: when it gets `users` for itself, nobody is left, and it kills the server
//! and removes its data. The first user starts both, under the lock `start`, and writes down the address.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::install::cache;

/// How long a server may take until it answers, on a machine that is busy with a build.
const READY_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// Arguments: lock file, folder of the run, file with the address, then the server's command.
const WATCHMAN: &str = r#"
exec 9<"$1"; folder=$2; address=$3; shift 3
cd "$folder" || exit 1
"$@" >server.log 2>&1 9<&- &
server=$!
while sleep 3; do
    if flock --nonblock --exclusive 9; then
        rm -f "$address"
        kill -9 $server
        wait $server
        rm -rf "$folder"
        exit
    fi
done
"#;

/// How to start one kind of server.
pub trait Recipe {
    /// A word for the folder of its state.
    fn name(&self) -> &'static str;
    /// How many free ports it needs.
    fn ports(&self) -> usize;
    /// Writes what it needs into its folder and returns its command. The first port is the one that clients use.
    fn command(&self, folder: &Path, ports: &[u16]) -> Result<Vec<String>>;
    /// Whether it serves on this port.
    fn is_ready(&self, port: u16) -> bool;
    /// What is done once when it has started.
    fn prepare(&self, port: u16) -> Result<()>;
}

/// A server that runs for at least as long as this value is kept.
pub struct Running {
    /// The port that clients use, on 127.0.0.1.
    pub port: u16,
    _user: File,
}

/// The server that runs already, or a new one.
pub fn running(recipe: &dyn Recipe) -> Result<Running> {
    let state = state_folder(recipe.name());
    fs::create_dir_all(&state).with_context(|| format!("cannot create {}", state.display()))?;
    let user = File::create(state.join("users"))?;
    user.lock_shared()?;
    let start = File::create(state.join("start"))?;
    start.lock()?;
    let known = fs::read_to_string(state.join("address")).ok().and_then(|text| text.parse().ok());
    let port = match known.filter(|port| recipe.is_ready(*port)) {
        Some(port) => port,
        None => start_new(recipe, &state)?,
    };
    Ok(Running { port, _user: user })
}

/// Clones of the project side by side do not share servers.
fn state_folder(name: &str) -> PathBuf {
    let clone = crate::mac::hex(&crate::mac::sha256(env!("CARGO_MANIFEST_DIR").as_bytes()));
    cache().join(format!("run-{}", &clone[..12])).join(name)
}

fn start_new(recipe: &dyn Recipe, state: &Path) -> Result<u16> {
    let folder = state.join(crate::unique());
    fs::create_dir_all(&folder)?;
    let ports = free_ports(recipe.ports())?;
    let port = *ports.first().context("a server needs a port")?;
    let address = state.join("address");
    let command = recipe.command(&folder, &ports)?;
    let mut watchman = Command::new("sh")
        .args(["-c", WATCHMAN, "watchman"])
        .args([&state.join("users"), &folder, &address])
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A signal from the terminal is for the tests; the watchman must outlive them.
        .process_group(0)
        .spawn()
        .context("cannot start sh")?;
    let deadline = Instant::now() + READY_WITHIN;
    while !recipe.is_ready(port) {
        let ended = watchman.try_wait()?.is_some();
        if ended || Instant::now() > deadline {
            let log = fs::read_to_string(folder.join("server.log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            bail!(
                "{} does not answer on port {port}; the end of its log, backwards: {last:#?}",
                recipe.name()
            );
        }
        sleep(POLL);
    }
    recipe.prepare(port)?;
    fs::write(address, port.to_string())?;
    Ok(port)
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    Ok(listeners
        .iter()
        .map(|listener| listener.local_addr().map(|at| at.port()))
        .collect::<std::io::Result<_>>()?)
}
