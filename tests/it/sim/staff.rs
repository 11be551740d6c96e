//! Whose keys there are: writers who are revoked, tainted, or whose certificates end; and somebody with a program of a
//! later version.

use sancerre_engine::gc::abandon;
use sancerre_engine::keys::certify::{NewKey, certify};
use sancerre_engine::repair::{self, RepairOptions};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, LogEntry, Outcome};
use sancerre_engine::repository::session::Session;
use sancerre_engine::revoke::revoke;
use sancerre_engine::{Error, ErrorKind, suspicion};
use sancerre_format::certificate::Role;
use sancerre_format::log::{Distrust, Entry, Kind, Note};
use sancerre_format::names::{self, Name, Time};
use sancerre_format::outcome::Abort;
use sancerre_tests::disk::MemoryDisk;
use sancerre_tests::forge::signed_with;
use sancerre_tests::repo::{back_up, name, zone};

use super::actors::{self, Actor, Employee, Line};
use super::truth::Fate;
use super::world::World;

/// Who backs up.
pub(super) struct Writer {
    pub(super) employee: Employee,
    pub(super) repository: Repository,
}

/// What a later version wrote: who signed it, and at which number.
pub(super) struct Newer {
    key: Name,
    number: u64,
    pub(super) is_entry: bool,
}

impl World {
    pub(super) async fn key(&mut self, of: &str, role: Role, expires: Option<Time>) -> (Name, Repository) {
        self.hired += 1;
        let new = NewKey { name: name(&format!("{of}{}", self.hired)), role, expires };
        let file = certify(&self.admin, &new).await.unwrap();
        (new.name, self.repo.with_key_file(&file).await)
    }

    /// One more writer. The certificates of some end within hours.
    pub(super) async fn hire(&mut self) {
        let now = self.repo.host.clock.now().unix_seconds();
        let hours = 1 + self.dice.below(200_000) as i64;
        let expires = self.dice.one_in(3).then(|| Time::from_unix_seconds(now + hours));
        let (name, repository) = self.key("writer", Role::Writer, expires).await;
        let employee = Employee { name, ends: expires.is_some() };
        self.writers.push(Writer { employee, repository });
    }

    /// Revokes a writer, from his revocation on or as if he had been a thief for some time.
    pub(super) fn dismiss(&mut self) -> Actor {
        let line = Line::new(&self.repo, &self.admin, &mut self.dice);
        let key = self.writers[self.dice.pick(self.writers.len())].employee.name.clone();
        let highest = self.truth.snapshots.keys().map(|session| session.number).max().unwrap_or(1);
        let from = self.dice.one_in(2).then(|| 1 + self.dice.below(highest));
        line.act(|repository| actors::revoke_key(repository, key, from))
    }

    /// What a revocation made void, if it is in the log; then the key is worth nothing from there on.
    pub(super) async fn note_void(&mut self, key: &Name, told: bool, asked: Option<u64>) {
        let log = Log::load(&self.repo.open).await.unwrap();
        let Some((number, distrust)) = log.revocation(key) else {
            assert!(!told, "{key} was revoked, and is not");
            return;
        };
        // Two may have revoked it, and of one that was not told only the other is there.
        assert!(
            !told || distrust.from <= asked.unwrap_or(number).min(number),
            "{key} counts up to {}",
            distrust.from
        );
        self.truth.void(key, distrust.from);
        let Some(at) = self.writers.iter().position(|writer| writer.employee.name == *key) else { return };
        let thief = self.writers.remove(at);
        if self.dice.one_in(2) {
            let saved = back_up(&thief.repository, "web01", MemoryDisk::new(vec![7; 5000])).await;
            assert!(saved.is_err(), "{key} is revoked, and saved {saved:?}");
        }
        while self.writers.len() < 2 {
            self.hire().await;
        }
    }

    /// Nobody uses again what a writer stored from some number on; it stays where it is used.
    pub(super) async fn taint(&mut self) {
        let writer = self.writers[self.dice.pick(self.writers.len())].employee.name.clone();
        let highest = Log::load(&self.repo.open).await.unwrap().highest();
        let from = 1 + self.dice.below(highest.max(1));
        self.trace.push(format!("{writer} is tainted from {from} on"));
        self.repo.append(Kind::Taint(Distrust { writer, from, reason: "test".into() }), &[]).await;
    }

    /// A program of a later version writes something: above an entry nobody adds or deletes until its key is revoked, above
    /// an outcome nobody deletes.
    pub(super) async fn come_from_the_future(&mut self) {
        let (key, repository) = self.key("later", Role::Writer, None).await;
        if self.dice.one_in(2) {
            return self.end_in_the_future(key, &repository).await;
        }
        let kind = Kind::Quarantine { reason: "test".into() };
        let signer = repository.signer(kind.roles()).unwrap();
        let entry = Entry { by: signer.by.clone(), ..self.repo.next_entry(kind).await };
        let change = crate::newer::LATER[self.dice.pick(2)];
        let bytes = signed_with(&entry, &signer.key, &[], |text| change(&text));
        self.repo.put_log(entry.number, bytes).await;
        self.strange.push(names::log(&zone(), entry.number));
        self.trace.push(format!("{key} writes log {} of a later version", entry.number));
        self.newer.push(Newer { key, number: entry.number, is_entry: true });
    }

    async fn end_in_the_future(&mut self, key: Name, repository: &Repository) {
        let mut log = Log::load(repository).await.unwrap();
        // Above what nobody understands it would not begin.
        let Ok(session) = Session::announce(repository, &mut log, &name("web01"), None).await else { return };
        let session = session.id;
        let signer = repository.signer(&[Role::Writer]).unwrap();
        let (repository, time) = (self.repo.open.keys.trust.repository, self.repo.host.clock.now());
        let (zone, by, reason) = (zone(), signer.by.clone(), "test".into());
        let abort = Abort { repository, zone, session, by, time, reason };
        let outcome = names::outcome(&abort.zone, &session);
        self.repo
            .tamper(&outcome, signed_with(&abort, &signer.key, &[], |text| crate::newer::LATER[0](&text)))
            .await;
        self.strange.push(outcome);
        self.trace.push(format!("{key} ends session {} as later versions do", session.number));
        self.newer.push(Newer { key, number: session.number, is_entry: false });
    }

    pub(super) async fn end_the_future(&mut self) {
        for Newer { key, number: from, .. } in std::mem::take(&mut self.newer) {
            let mut log = Log::load(&self.admin).await.unwrap();
            let revoked = revoke(&self.admin, &mut log, &key, Some(from), "test").await.unwrap();
            assert_eq!(revoked.from, from);
            self.trace.push(format!("{key} is revoked from {from} on"));
        }
    }

    /// A note about a snapshot, with packs of its own.
    pub(super) async fn annotate(&mut self) {
        let Some(snapshot) = self.choose(&[Fate::Kept, Fate::Held]) else { return };
        let Some(writer) = self.writers.iter().find(|writer| !writer.employee.ends) else { return };
        let note = Note { topic: name("statistics"), result: None, snapshots: vec![snapshot] };
        let by = writer.employee.name.clone();
        let session = self.repo.append_as(&writer.repository, Kind::Note(note), &[]).await;
        self.repo.annex_as(&writer.repository, session).await;
        self.trace.push(format!("{by} says something of {} in {}", snapshot.number, session.number));
        self.truth.notes.push((session.number, by, snapshot));
    }

    /// A keeper finds a snapshot suspect, or has looked at a machine of which one was.
    pub(super) async fn suspect(&mut self) {
        let keeper = &self.keepers[0];
        let log = Log::load(keeper).await.unwrap();
        let suspects = log.retention().suspects();
        if let (Some((_, vm)), true) = (suspects.first(), self.dice.one_in(2)) {
            let done = suspicion::clear(keeper, &log, vm, "test").await.map_err(|error| error.kind());
            self.trace.push(format!("{vm} is cleared: {:?}", done.map(|cleared| cleared.entry)));
            return;
        }
        let Some(snapshot) = self.choose(&[Fate::Kept, Fate::Held, Fate::AskedFor]) else { return };
        let done = suspicion::suspect(&self.keepers[0], &log, snapshot).await.map_err(|error| error.kind());
        self.trace.push(format!("{} is suspect: {done:?}", snapshot.number));
    }

    /// The keeper who lies is found out, and what he and others broke is given up.
    pub(super) async fn judge(&mut self) {
        if let Some((key, _)) = self.liar.take() {
            let mut log = Log::load(&self.admin).await.unwrap();
            let from = self.dice.one_in(2).then_some(1);
            let revoked = revoke(&self.admin, &mut log, &key, from, "test").await.unwrap();
            self.trace.push(format!(
                "{key} is revoked in {}, {} sessions end",
                revoked.number,
                revoked.ended.len()
            ));
        }
        if self.dice.one_in(2) {
            self.give_up().await;
        }
    }

    /// The newest first, as those below may only be given up then.
    pub(super) async fn give_up(&mut self) {
        let mut log = Log::load(&self.admin).await.unwrap();
        // Junk below what nobody can read any more: it may have been an entry.
        for session in log.untold() {
            let (key, reason) = (names::log(&zone(), session.number), "test".to_owned());
            let options = RepairOptions { dry_run: false, give_up: Vec::new(), reason };
            let done = repair::give_up(&self.admin, &mut log, &key, &options).await.unwrap();
            self.trace.push(done);
        }
        log.judge();
        let waiting = log.waiting();
        let is_invalid = |entry: &LogEntry| matches!(entry.outcome, Outcome::Invalid(_));
        // What stands on a commit that waits for what cannot be read goes before it.
        let stops = waiting.iter().find(|(_, below)| log.entry(below.number).is_some_and(is_invalid));
        let stops = stops.map_or(u64::MAX, |(gc, _)| *gc);
        let is_wrong = |entry: &&LogEntry| {
            let number = entry.session.number;
            let stands_on_it = number > stops && entry.commit().is_some();
            is_invalid(entry)
                || stands_on_it
                || log.flaws().contains_key(&number)
                || waiting.contains_key(&number)
        };
        let collectors = log.entries().filter(|entry| entry.is_gc()).filter(is_wrong);
        let open = collectors.filter(|entry| !log.abandoned().contains_key(&entry.session));
        let mut wrong: Vec<u64> = open.map(|entry| entry.session.number).collect();
        wrong.reverse();
        for number in wrong {
            let done = abandon(&self.admin, number, "test").await.map_err(|error: Error| error.kind());
            // A gc of somebody else may stand on it, or it was ended meanwhile; above what is too new nothing is signed.
            let may_be = matches!(done, Ok(_) | Err(ErrorKind::Usage | ErrorKind::Unsupported));
            assert!(may_be, "gc {number}: {done:?}");
            self.trace.push(format!("gc {number} is given up: {done:?}"));
        }
    }
}
