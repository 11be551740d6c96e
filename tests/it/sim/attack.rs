//! Somebody who has stolen write credentials, and no key: may create, and not overwrite or delete.

use object_store::{ObjectStore, PutMode};
use sancerre_engine::repository::log::Log;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::names;
use sancerre_tests::disk::noise;

use super::world::World;

impl World {
    /// Junk, or the bytes of another object, where the engine looks.
    pub(super) async fn attack(&mut self) {
        let log = Log::load(&self.repo.open).await.unwrap();
        for _ in 0..=self.dice.pick(3) {
            let key = self.target(&log);
            let bytes = self.ammunition().await;
            let options = PutMode::Create.into();
            if self.repo.memory.put_opts(&key.as_str().into(), bytes.into(), options).await.is_ok() {
                self.trace.push(format!("attack on {key}"));
                self.junk.push(key);
            }
        }
    }

    fn target(&mut self, log: &Log) -> String {
        let zone = self.repo.open.keys.zone.clone();
        let highest = log.highest();
        // Of sessions to come too: their names hold what nobody knows before they begin.
        let session = self.session(log);
        let ordinal = self.dice.below(4) as u32;
        match self.dice.below(9) {
            0 => names::log(&zone, highest + 1),
            1 => names::log(&zone, highest + 1 + self.dice.below(1 << 40)),
            2 => match log.undecided(u64::MAX).next() {
                Some(open) => names::outcome(&zone, &open.session),
                None => names::outcome(&zone, &session),
            },
            3 => names::pack(&zone, PackName { session: session.number, ordinal }, &Hash::of(b"junk")),
            4 => names::list(&zone, &session, ordinal),
            5 => names::index(&zone, &session, ordinal),
            6 => names::checkpoint(&zone, 1 + self.dice.below(highest + 4)),
            // Whose key may be revoked, and whose was not.
            7 => names::revoked(&self.writers[self.dice.pick(self.writers.len())].employee.name),
            _ => format!("zones/{zone}/log/{}", self.dice.roll()),
        }
    }

    /// A session that was, or one that may come: then its hash can only be guessed.
    fn session(&mut self, log: &Log) -> SessionId {
        let number = 1 + self.dice.below(log.highest() + 4);
        let guess = SessionId { number, intent: Hash::of(&self.dice.roll().to_le_bytes()) };
        log.entry(number).filter(|_| self.dice.one_in(2)).map_or(guess, |entry| entry.session)
    }

    async fn ammunition(&mut self) -> Vec<u8> {
        if self.dice.one_in(2) {
            return noise(self.dice.roll(), self.dice.clone().pick(300));
        }
        let objects = self.repo.objects().await;
        let (key, _) = &objects[self.dice.pick(objects.len())];
        self.repo.object(key).await
    }
}
