//! A running machine's picture without libvirt: QEMU's monitor is asked for what libvirt would ask it for.
//!
//! Each disk gets a file to which QEMU copies what the guest is about to overwrite; the disk seen through that file stands still,
//! and is served over NBD. All disks begin in one transaction, at one moment, together with the lists of what changes from then
//! on. These are named after the session like libvirt's checkpoints, so here, too, nothing is remembered ([`crate::checkpoint`]).
//!
//! Whatever else we make has a name that begins with [`OURS`]: what a dead process left is known by it. One process at a time
//! works on a machine, for its [`Place`] is locked, and a monitor talks to one.

mod disks;
mod left;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sancerre_boot::{Qmp, QmpError};
use serde_json::{Value, json};

pub use self::disks::QemuDisk;
use crate::agent::Agent;
use crate::checkpoint::Names;
use crate::error::CaptureError;
use crate::freezing::Freezing;
use crate::keeper::Keeper;
use crate::picture::{DEVICES, Picture, PictureDisk, Pictured, Pull};
use crate::place::{self, Place};
use crate::room::{self, Room};

/// What the names of nodes, jobs and exports of ours begin with.
const OURS: &str = "sancerre-";
/// What a list is called that has the changes up to the moment.
const UNTIL_NOW: &str = "sancerre-until-now";
/// How long a job, export or node may take to go.
const END: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a monitor may take to greet us.
const GREETING: Duration = Duration::from_secs(10);

/// A running QEMU that nobody else of us backs up meanwhile.
pub struct Qemu {
    qmp: Arc<Mutex<Qmp>>,
    monitor: PathBuf,
    place: Place,
    names: Names,
    scratch: Option<PathBuf>,
    uuid: Option<String>,
    agent: Option<PathBuf>,
    disks: Vec<QemuDisk>,
    job: Option<Job>,
}

/// What was begun.
struct Job {
    /// The list of changes from this moment on; none in a dry run.
    list: Option<String>,
    /// What is copied before it is overwritten ends with it.
    backups: Vec<String>,
    room: Room,
    /// Ends them when this process is killed.
    keeper: Option<Keeper>,
}

/// A disk of a picture to be.
struct Asked<'a> {
    disk: &'a QemuDisk,
    number: usize,
    scratch: PathBuf,
    base: Option<String>,
}

impl Asked<'_> {
    fn name(&self, what: &str) -> String {
        format!("{OURS}{what}{}", self.number)
    }
}

impl Qemu {
    /// Takes the machine behind a monitor, and removes what a dead process of ours left on it.
    ///
    /// # Errors
    /// No QEMU is there, or another program talks to it; [`CaptureError::Busy`] when another process of ours works on it.
    pub fn claim(
        monitor: &Path,
        agent: Option<PathBuf>,
        run_folder: &Path,
        scratch: Option<PathBuf>,
        repository: &str,
    ) -> Result<Self, CaptureError> {
        let away = |source| CaptureError::File {
            operation: "find the monitor",
            path: monitor.to_owned(),
            source,
            advice: "start QEMU with -qmp unix:PATH,server=on,wait=off, and name that socket".into(),
        };
        let found = fs::metadata(monitor).map_err(away)?;
        let path = fs::canonicalize(monitor).map_err(away)?;
        // Where its monitor is says which machine it is, also after it was started anew: ids are given by who starts it, or by
        // nobody.
        let id = format!("qmp-{:016x}", place::digest(path.as_os_str().as_encoded_bytes()));
        let place = Place::claim(run_folder, &id, Some((found.uid(), found.gid())), PATIENCE)?;
        let qmp = Qmp::connect_within(&path, GREETING).map_err(|error| connecting(monitor, error))?;
        let (qmp, names) = (Arc::new(Mutex::new(qmp)), Names::of(repository));
        let monitor_path = path.clone();
        let mut qemu = Self {
            qmp,
            monitor: monitor_path,
            place,
            names,
            scratch,
            uuid: None,
            agent,
            disks: Vec::new(),
            job: None,
        };
        let uuid = qemu.ask("query-uuid", json!({}))?;
        let uuid = uuid.get("UUID").and_then(Value::as_str);
        let is_given = |uuid: &&str| uuid.bytes().any(|byte| byte != b'0' && byte != b'-');
        qemu.uuid = uuid.filter(is_given).map(str::to_owned);
        qemu.freezing().thaw_left();
        if let Some(job) = qemu.stream()? {
            return Err(CaptureError::Busy {
                machine: monitor.display().to_string(),
                why: left::beside(&job),
            });
        }
        qemu.look()?;
        if let Some(left) = qemu.clear().into_iter().next() {
            return Err(CaptureError::Busy {
                machine: monitor.display().to_string(),
                why: format!("what a killed backup left cannot be removed: {left}"),
            });
        }
        qemu.look()?;
        Ok(qemu)
    }

    /// The id that QEMU was started with, if it was.
    pub fn uuid(&self) -> Option<&str> {
        self.uuid.as_deref()
    }

    /// All that it has as a disk, taken or not.
    pub fn disks(&self) -> &[QemuDisk] {
        &self.disks
    }

    fn keeper(&self, program: &Path) -> Result<Keeper, CaptureError> {
        Keeper::of_qemu(program, &self.monitor, &self.place.id(), self.place.base())
            .map_err(CaptureError::Unfit)
    }

    fn freezing(&self) -> Freezing<'_> {
        let agent = self.agent.clone().map(Agent::Socket);
        Freezing { agent, marker: self.place.marker(), name: "the guest" }
    }

    fn look(&mut self) -> Result<(), CaptureError> {
        let answer = self.ask("query-block", json!({}))?;
        self.disks = QemuDisk::all(&answer).map_err(CaptureError::Unfit)?;
        Ok(())
    }

    /// The newest list of ours whose session became a snapshot, and that snapshot.
    fn base(&self, pull: &Pull) -> Option<(String, String)> {
        let has = |list: &str| {
            let mut lists = self.disks.iter().flat_map(|disk| &disk.bitmaps);
            lists.any(|bitmap| bitmap.name == list && bitmap.is_good)
        };
        let named = pull.snapshots.iter().rev().map(|snapshot| (self.names.checkpoint(snapshot), snapshot));
        named.into_iter().find(|(list, _)| has(list)).map(|(list, snapshot)| (list, snapshot.clone()))
    }

    fn asked<'a>(&self, disks: &'a [QemuDisk], pull: &Pull, base: Option<&str>) -> Vec<Asked<'a>> {
        let taken = disks.iter().filter(|disk| disk.skipped.is_none() && pull.targets.contains(&disk.target));
        let asked = taken.enumerate().map(|(number, disk)| {
            let of_base = |list: &&str| disk.bitmaps.iter().any(|one| one.name == **list && one.is_good);
            Asked {
                disk,
                number,
                scratch: self.scratch_of(disk),
                base: base.filter(of_base).map(str::to_owned),
            }
        });
        asked.collect()
    }

    fn scratch_of(&self, disk: &QemuDisk) -> PathBuf {
        let is_device = |path: &Path| path.starts_with("/dev");
        let beside = disk.file.as_deref().filter(|path| !is_device(path)).and_then(Path::parent);
        let folder = self.scratch.as_deref().or(beside).unwrap_or(Path::new(DEVICES));
        folder.join(format!(".{}.{}.sancerre-scratch", disk.target.replace('/', "-"), self.place.id()))
    }

    /// A file for what the guest overwrites, made by QEMU itself: so it may write to it, whoever it runs as.
    fn make_scratch(&self, asked: &Asked<'_>) -> Result<(), CaptureError> {
        let (file, overlay) = (asked.name("file"), asked.name("overlay"));
        // One that is in the way is of a process that died.
        let _ = fs::remove_file(&asked.scratch);
        let path = asked.scratch.display().to_string();
        self.create(&asked.name("create"), json!({"driver": "file", "filename": path, "size": 0}))?;
        self.ask("blockdev-add", json!({"driver": "file", "node-name": file, "filename": path}))?;
        let size_bytes = asked.disk.size_bytes;
        self.create(&asked.name("create"), json!({"driver": "qcow2", "file": file, "size": size_bytes}))?;
        let node = &asked.disk.node;
        self.ask(
            "blockdev-add",
            json!({"driver": "qcow2", "node-name": overlay, "file": file, "backing": node}),
        )?;
        Ok(())
    }

    fn create(&self, job: &str, options: Value) -> Result<(), CaptureError> {
        self.ask("blockdev-create", json!({"job-id": job, "options": options}))?;
        let started = Instant::now();
        loop {
            let jobs = self.ask("query-jobs", json!({}))?;
            let found = named(&jobs, "id", job).cloned().unwrap_or_default();
            if found.get("status").and_then(Value::as_str) == Some("concluded") {
                self.ask("job-dismiss", json!({"id": job}))?;
                return match found.get("error").and_then(Value::as_str) {
                    None => Ok(()),
                    Some(said) => Err(CaptureError::Refused {
                        what: format!("blockdev-create {options}"),
                        said: said.into(),
                    }),
                };
            }
            waited(started, "blockdev-create")?;
        }
    }

    /// Begins all disks at one moment.
    fn begin_all(&self, asked: &[Asked<'_>], list: Option<&str>) -> Result<(), CaptureError> {
        let mut actions = Vec::new();
        let mut act = |kind: &str, data: Value| actions.push(json!({"type": kind, "data": data}));
        for one in asked {
            let (node, overlay) = (&one.disk.node, one.name("overlay"));
            if let Some(list) = list {
                let kept = one.disk.keeps_bitmaps;
                act("block-dirty-bitmap-add", json!({"node": node, "name": list, "persistent": kept}));
            }
            if let Some(base) = &one.base {
                act("block-dirty-bitmap-add", json!({"node": node, "name": UNTIL_NOW, "disabled": true}));
                act(
                    "block-dirty-bitmap-merge",
                    json!({"node": node, "target": UNTIL_NOW, "bitmaps": [base]}),
                );
            }
            act(
                "blockdev-backup",
                json!({"job-id": one.name("backup"), "device": node, "target": overlay, "sync": "none"}),
            );
        }
        self.ask("transaction", json!({ "actions": actions })).map(drop)
    }

    fn serve(&self, asked: &[Asked<'_>]) -> Result<(), CaptureError> {
        let socket = self.place.socket().display().to_string();
        let started =
            self.ask("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": socket}}}));
        started.map_err(|error| match error {
            CaptureError::Refused { said, .. } if said.contains("already running") => CaptureError::Busy {
                machine: "QEMU".into(),
                why: "it serves disks to another program now, and has one server; wait until that is done"
                    .into(),
            },
            error => error,
        })?;
        for one in asked {
            let bitmaps: Vec<Value> = match &one.base {
                Some(_) => vec![json!({"node": one.disk.node, "name": UNTIL_NOW})],
                None => Vec::new(),
            };
            let export = json!({
                "type": "nbd", "id": one.name("export"), "node-name": one.name("overlay"), "name": one.disk.target,
                "writable": false, "bitmaps": bitmaps
            });
            self.ask("block-export-add", export)?;
        }
        Ok(())
    }

    fn ask(&self, command: &str, arguments: Value) -> Result<Value, CaptureError> {
        ask(&self.qmp, command, arguments)
    }
}

impl Pictured for Qemu {
    fn begin(&mut self, pull: &Pull) -> Result<Picture, CaptureError> {
        let base = self.base(pull);
        let list = pull.session.as_ref().map(|session| self.names.checkpoint(session));
        if list.is_some() {
            let kept = base.as_ref().map(|(list, _)| list.clone());
            self.keep_lists(|name| Some(name) == kept.as_deref())?;
        }
        let disks = self.disks.clone();
        let asked = self.asked(&disks, pull, base.as_ref().map(|(list, _)| list.as_str()));
        let folders: Vec<PathBuf> =
            asked.iter().filter_map(|asked| asked.scratch.parent().map(Path::to_owned)).collect();
        if let Some(why) = folders.iter().find_map(|folder| room::too_little(folder)) {
            return Err(CaptureError::Unfit(why));
        }
        let backups: Vec<String> = asked.iter().map(|one| one.name("backup")).collect();
        let (qmp, ended) = (Arc::clone(&self.qmp), backups.clone());
        let room = Room::watch(folders, move || give_up(&qmp, &ended));
        // From here on there may be something to end.
        let keeper = pull.program.as_ref().map(|program| self.keeper(program)).transpose()?;
        self.job = Some(Job { list: list.clone(), backups, room, keeper });
        for one in &asked {
            self.make_scratch(one)?;
        }
        let (mut notes, freezing) = (Vec::new(), self.freezing());
        let freeze = freezing.freeze(pull, &mut notes)?;
        self.begin_all(&asked, list.as_deref())?;
        let frozen = freezing.thaw(pull, freeze, &mut notes)?;
        self.serve(&asked)?;
        let socket = self.place.socket();
        let disks = asked.iter().map(|one| PictureDisk {
            target: one.disk.target.clone(),
            socket: socket.clone(),
            bitmap: one.base.as_ref().map(|_| UNTIL_NOW.to_owned()),
        });
        let (disks, base) = (disks.collect(), base.map(|(_, snapshot)| snapshot));
        Ok(Picture { disks, base, frozen, notes })
    }

    fn given_up(&self) -> Option<String> {
        self.job.as_ref().and_then(|job| job.room.given_up())
    }

    fn broken(&self) -> Option<String> {
        self.ended_early(&self.job.as_ref()?.backups)
    }

    fn end(&mut self, is_saved: bool) -> Vec<String> {
        let Some(job) = self.job.take() else { return Vec::new() };
        let mut notes = self.clear();
        if let (true, Some(keeper)) = (notes.is_empty(), job.keeper) {
            keeper.let_go();
        }
        if let Some(new) = job.list {
            // Saved: all that came before it. Not saved: this one.
            let kept = self.keep_lists(|name| (name == new) == is_saved);
            notes.extend(kept.err().map(|error| error.to_string()));
        }
        notes
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// Ends what a process that was killed has QEMU keep aside.
///
/// # Errors
/// What QEMU says.
pub(crate) fn end_left(monitor: &Path) -> Result<(), CaptureError> {
    let qmp = Qmp::connect_within(monitor, GREETING).map_err(|error| connecting(monitor, error))?;
    let qmp = Mutex::new(qmp);
    let jobs = ask(&qmp, "query-jobs", json!({}))?;
    let ids = jobs.as_array().into_iter().flatten().filter_map(|job| job.get("id")?.as_str());
    let ours: Vec<String> = ids.filter(|id| id.starts_with(OURS)).map(str::to_owned).collect();
    // Without one there is nothing of ours that grows, and a server may be somebody else's.
    if !ours.is_empty() {
        give_up(&qmp, &ours);
    }
    Ok(())
}

/// Ends a picture that is read: nobody may read on once the disks do not stand still any more, so the server goes first.
fn give_up(qmp: &Mutex<Qmp>, backups: &[String]) {
    if ask(qmp, "nbd-server-stop", json!({})).is_ok() {
        for id in backups {
            // What is left of it is removed with the rest.
            let _ = ask(qmp, "block-job-cancel", json!({"device": id, "force": true}));
        }
        go_on(qmp, backups);
    }
}

/// A guest whose write was refused for want of room writes it again, once nothing is kept aside any more.
fn go_on(qmp: &Mutex<Qmp>, backups: &[String]) {
    let started = Instant::now();
    let is_there = |jobs: Value| backups.iter().any(|id| named(&jobs, "id", id).is_some());
    while ask(qmp, "query-jobs", json!({})).is_ok_and(is_there) && started.elapsed() < END {
        thread::sleep(STEP);
    }
    let status = ask(qmp, "query-status", json!({})).unwrap_or_default();
    if status.get("status").and_then(Value::as_str) == Some("io-error") {
        let _ = ask(qmp, "cont", json!({}));
    }
}

fn ask(qmp: &Mutex<Qmp>, command: &str, arguments: Value) -> Result<Value, CaptureError> {
    let mut qmp = qmp.lock().unwrap_or_else(PoisonError::into_inner);
    qmp.execute(command, arguments).map_err(|error| match error {
        QmpError::Refused { command, words } => CaptureError::Refused { what: command, said: words },
        error => CaptureError::Unfit(format!("{command}: {error}; see whether the machine still runs")),
    })
}

fn connecting(monitor: &Path, error: QmpError) -> CaptureError {
    let advice = match &error {
        QmpError::Io(io)
            if matches!(io.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
        {
            "a monitor talks to one program at a time: give QEMU a second one, with another -qmp"
        }
        _ => "see whether QEMU runs, and whether this user may connect to its monitor",
    };
    CaptureError::Unfit(format!("{}: {error}; {advice}", monitor.display()))
}

fn named<'a>(list: &'a Value, field: &str, name: &str) -> Option<&'a Value> {
    let mut all = list.as_array()?.iter();
    all.find(|one| one.get(field).and_then(Value::as_str) == Some(name))
}

fn waited(started: Instant, what: &str) -> Result<(), CaptureError> {
    if started.elapsed() > END {
        return Err(CaptureError::Slow { what: what.to_owned(), seconds: END.as_secs() });
    }
    thread::sleep(STEP);
    Ok(())
}
