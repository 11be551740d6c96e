//! What was begun is ended, by this process or by the next one: by its names, for nothing else is known of it then.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::{OURS, Qemu, UNTIL_NOW, named, waited};
use crate::error::CaptureError;

impl Qemu {
    /// Ends and removes all that has a name of ours, but lists that sessions are named in. Returns what cannot be removed.
    pub(super) fn clear(&mut self) -> Vec<String> {
        let cleared = self.clear_all();
        let folders: Vec<PathBuf> = self.disks.iter().map(|disk| self.scratch_of(disk)).collect();
        for path in folders {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return vec![format!("{}: {error}", path.display())];
                }
                _ => {}
            }
        }
        self.place.empty();
        cleared.err().map(|error| error.to_string()).into_iter().collect()
    }

    fn clear_all(&mut self) -> Result<(), CaptureError> {
        let exports = self.all_ours("query-block-exports", "id")?;
        for id in &exports {
            self.ask("block-export-del", json!({"id": id, "mode": "hard"}))?;
        }
        self.wait_gone("query-block-exports", "id")?;
        // QEMU has one server: it is ours if it answers where ours does.
        let is_ours = UnixStream::connect(self.place.socket()).is_ok();
        let others = self.ask("query-block-exports", json!({}))?;
        if is_ours && others.as_array().is_none_or(Vec::is_empty) {
            self.ask("nbd-server-stop", json!({}))?;
        }
        self.end_jobs()?;
        if let Some(job) = self.stream()? {
            return Err(CaptureError::Refused { what: "query-named-block-nodes".into(), said: beside(&job) });
        }
        let mut nodes = self.all_ours("query-named-block-nodes", "node-name")?;
        // What lies on a file goes before it.
        nodes.sort_by_key(|name| !name.contains("overlay"));
        for name in nodes {
            self.ask("blockdev-del", json!({ "node-name": name }))?;
        }
        self.look()?;
        for disk in &self.disks {
            if disk.bitmaps.iter().any(|bitmap| bitmap.name == UNTIL_NOW) {
                self.remove_list(&disk.node, UNTIL_NOW)?;
            }
        }
        Ok(())
    }

    /// Ends all jobs of ours. A job that makes a file cannot be cancelled, and one can be dismissed only once it has ended: so
    /// each is told again until it is gone.
    fn end_jobs(&self) -> Result<(), CaptureError> {
        let started = Instant::now();
        loop {
            let ids = self.all_ours("query-jobs", "id")?;
            if ids.is_empty() {
                return Ok(());
            }
            for id in ids {
                // One that has ended meanwhile is no failure; one that has not is told again.
                let _ = self.ask("block-job-cancel", json!({"device": id, "force": true}));
                let _ = self.ask("job-dismiss", json!({ "id": id }));
            }
            waited(started, "query-jobs")?;
        }
    }

    /// A job of somebody else that streams. QEMU 10.0 dies when it lists its nodes after such a job has ended and before it was
    /// dismissed: the job's filter has lost its child, and nobody looks whether there is one. So no nodes are listed beside one.
    pub(super) fn stream(&self) -> Result<Option<String>, CaptureError> {
        let jobs = self.ask("query-jobs", json!({}))?;
        let stream = |job: &&Value| job.get("type").is_some_and(|kind| kind == "stream");
        let id = |job: &Value| job.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(jobs.as_array().into_iter().flatten().find(stream).map(id))
    }

    /// Whether a job that kept a disk still is not there any more.
    pub(super) fn ended_early(&self, backups: &[String]) -> Option<String> {
        let jobs = self.ask("query-jobs", json!({})).unwrap_or_default();
        backups
            .iter()
            .find(|id| named(&jobs, "id", id).is_none())
            .map(|id| format!("QEMU's job {id} was ended by somebody else before all was read"))
    }

    fn all_ours(&self, query: &str, field: &str) -> Result<Vec<String>, CaptureError> {
        let flat = if query == "query-named-block-nodes" { json!({"flat": true}) } else { json!({}) };
        let answer = self.ask(query, flat)?;
        let names = answer.as_array().into_iter().flatten().filter_map(|one| one.get(field)?.as_str());
        Ok(names.filter(|name| name.starts_with(OURS)).map(str::to_owned).collect())
    }

    fn wait_gone(&self, query: &str, field: &str) -> Result<(), CaptureError> {
        let started = Instant::now();
        while !self.all_ours(query, field)?.is_empty() {
            waited(started, query)?;
        }
        Ok(())
    }

    fn remove_list(&self, node: &str, list: &str) -> Result<(), CaptureError> {
        self.ask("block-dirty-bitmap-remove", json!({"node": node, "name": list})).map(drop)
    }

    /// Removes the lists of ours that are not kept.
    pub(super) fn keep_lists(&mut self, is_kept: impl Fn(&str) -> bool) -> Result<(), CaptureError> {
        self.look()?;
        for disk in &self.disks {
            for bitmap in disk.ours(&self.names).filter(|bitmap| !is_kept(&bitmap.name)) {
                self.remove_list(&disk.node, &bitmap.name)?;
            }
        }
        Ok(())
    }
}

/// Why nothing can be done while this job is there.
pub(super) fn beside(job: &str) -> String {
    format!(
        "a job {job} of somebody else streams, or has ended and was not dismissed (`job-dismiss`): QEMU may die when its disks \
         are looked at beside one. Wait until it is gone, then run again"
    )
}
