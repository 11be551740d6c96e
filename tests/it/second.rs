//! The second decoder on repositories that lost something, or were lied to: it restores what the engine restores.

use std::path::PathBuf;
use std::process::Command;

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use sancerre_engine::check::{CheckOptions, ReadData, check};
use sancerre_engine::keys::ExposeSecret;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::log::Log;
use sancerre_engine::revoke::revoke;
use sancerre_format::certificate::Role;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Distrust, Entry, Kind};
use sancerre_format::names;
use sancerre_format::pack::{Pack, PackKind};
use sancerre_format::record;
use sancerre_services::{install, skip};
use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::repo::{TestRepo, back_up, name, passphrase, zone};

use crate::admins::{hold, rotated, saved};

const SIZE: usize = 1 << 20;

/// The decoder, and a folder with the objects of a repository.
pub(crate) struct Second {
    python: PathBuf,
    folder: tempfile::TempDir,
    trust: String,
}

impl Second {
    pub(crate) async fn of(repo: &TestRepo) -> Option<Self> {
        let Some(python) = install::decoder_python() else {
            skip("the decoder's Python packages are not installed; `cargo xtask setup` does it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        for meta in repo.memory.list(None).try_collect::<Vec<_>>().await.unwrap() {
            let path = folder.path().join("repository").join(meta.location.as_ref());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let bytes = repo.memory.get(&meta.location).await.unwrap().bytes().await.unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let trust = repo.open.keys.trust.admin.fingerprint();
        Some(Self { python, folder, trust })
    }

    /// Its exit code, and what it said.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/decoder");
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(program).arg(arguments[0]).args(["--trust", &self.trust]);
        command.args(&arguments[1..]).current_dir(&self.folder);
        let output = command.env("SANCERRE_PASSWORD", passphrase().expose_secret()).output().unwrap();
        let told =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), told)
    }

    pub(crate) fn restores(&self, session: SessionId, expected: &[u8]) -> String {
        let id = session.intent.to_string();
        let (code, told) = self.run(&["restore", "repository", &id[..16], "disk0", &id]);
        assert_eq!(code, Some(0), "{told}");
        assert!(std::fs::read(self.folder.path().join(&id)).unwrap() == expected, "{told}");
        std::fs::remove_file(self.folder.path().join(&id)).unwrap();
        told
    }

    /// It names what is wrong, and nothing worse than `wrong`.
    fn names(&self, snapshots: usize, wrong: &str) {
        let (code, told) = self.run(&["verify", "repository"]);
        assert_eq!(code, Some(20), "{told}");
        assert!(told.contains(&format!("{snapshots} snapshots, ")) && told.contains(wrong), "{told}");
    }
}

async fn save(repo: &TestRepo, disk: &[u8]) -> SessionId {
    back_up(&repo.open, "web01", MemoryDisk::new(disk.to_vec())).await.unwrap().snapshot.unwrap()
}

/// Packs of a snapshot are lost or rot, all or those of one kind; a later one stored their content again.
#[tokio::test]
async fn restores_by_copies_in_other_packs() {
    let ways =
        [(None, false), (Some(PackKind::Data), false), (Some(PackKind::Metadata), false), (None, true)];
    for (round, (kind, rots)) in ways.into_iter().enumerate() {
        let (repo, disk) = (TestRepo::new(970 + round as u64).await, guest(971, SIZE));
        let first = save(&repo, &disk).await;
        for key in repo.keys_with(&format!("/packs/{:016x}/", first.number)).await {
            let mut bytes = repo.object(&key).await;
            let found = Pack::decode(&bytes).unwrap().head().kind;
            if kind.is_some_and(|kind| kind != found) {
                continue;
            }
            let middle = bytes.len() / 2;
            match rots {
                true => {
                    bytes.iter_mut().skip(middle / 2).take(middle).for_each(|byte| *byte ^= 1);
                    repo.tamper(&key, bytes).await;
                }
                false => repo.lose(&[key]).await,
            }
        }
        if rots {
            let options = CheckOptions { read_data: ReadData::All, quarantine: true };
            check(&repo.open, &options, &Monitor::silent()).await.unwrap();
        }
        let second = save(&repo, &disk).await;
        let Some(decoder) = Second::of(&repo).await else { return };
        let told = decoder.restores(first, &disk);
        assert!(told.contains("is taken from copies"), "{kind:?}: {told}");
        let told = decoder.restores(second, &disk);
        assert!(!told.contains("is taken from copies"), "{kind:?}: {told}");
        decoder.names(2, "is taken from copies");
    }
}

/// The list of a session is lost: its packs say themselves what they are.
#[tokio::test]
async fn restores_from_packs_that_no_list_names() {
    let (repo, disk) = (TestRepo::new(975).await, guest(975, SIZE));
    let first = save(&repo, &disk).await;
    repo.lose(&[names::list(&zone(), &first, 0)]).await;
    let Some(decoder) = Second::of(&repo).await else { return };
    decoder.restores(first, &disk);
    decoder.names(1, "no list names this pack");
}

/// An admin key that was replaced signs at a number whose entry is lost: the next entry has read another one.
#[tokio::test]
async fn believes_no_replaced_admin_key_where_an_entry_is_lost() {
    let repo = TestRepo::new(976).await;
    let first = saved(&repo.open, 1).await;
    let record = repo.append(hold(first), &[]).await;
    let second = saved(&repo.open, 2).await;
    let old = repo.as_admin().await;
    rotated(&repo).await;
    let signer = old.signer(&[Role::Admin]).unwrap();
    let writer = repo.open.writer().unwrap().by.name.clone();
    let theft = Kind::Revoke(Distrust { writer, from: 1, reason: "theft".into() });
    let below = Some(first.intent);
    let entry = repo.next_entry(theft).await;
    let entry = Entry { by: signer.by.clone(), number: record.number, previous: below, ..entry };
    let bytes = record::encode(&entry, "sancerre test", &signer.key, &[], &[]).unwrap();
    repo.lose(&[names::log(&zone(), record.number)]).await;
    repo.put_log(record.number, bytes).await;
    let Some(decoder) = Second::of(&repo).await else { return };
    decoder.restores(first, &guest(1, 200_000));
    decoder.restores(second, &guest(2, 200_000));
    decoder.names(2, "signed by an admin key that was replaced");
}

/// A revocation is lost, and what it revoked does not come back: a copy stands for it.
#[tokio::test]
async fn believes_copies_of_lost_revocations() {
    let repo = TestRepo::new(977).await;
    let first = saved(&repo.open, 1).await;
    let file = repo.certify("thief", Role::Writer).await;
    saved(&repo.with_key_file(&file).await, 2).await;
    let admin = repo.as_admin().await;
    let mut log = Log::load(&admin).await.unwrap();
    let revoked = revoke(&admin, &mut log, &name("thief"), Some(1), "stolen").await.unwrap();
    saved(&repo.open, 3).await;
    repo.lose(&[names::log(&zone(), revoked.number)]).await;
    let Some(decoder) = Second::of(&repo).await else { return };
    decoder.restores(first, &guest(1, 200_000));
    decoder.names(2, "a copy of it stands for it");
}
