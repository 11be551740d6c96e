//! With a key file alone every way to content is tried, on the file's own finished sessions too, and none opens.
//!
//! What the file holds is taken for every kind of key: a session key, a metadata root, an identity, a passphrase. The
//! same attempts with the right key succeed, so a failure means something.

use age::secrecy::SecretString;
use sancerre_engine::keys::{IdentityFile, recipients};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::certificate::Role;
use sancerre_format::pack::{Pack, PackKind};
use sancerre_format::seal::{RootKey, SessionKey, UnitKind, UnitName, open};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up};

const AGE: &[u8] = b"age-encryption.org/v1\n";

/// Every 32 bytes of a key file.
fn secrets(key_file: &str) -> Vec<[u8; 32]> {
    let values = key_file.lines().filter_map(|line| Some(line.split_once(": ")?.1));
    let secrets: Vec<[u8; 32]> = values
        .filter(|value| value.len() == 64)
        .filter_map(|value| sancerre_format::id::Hash::from_hex(value).ok().map(|hash| hash.0))
        .collect();
    assert_eq!(secrets.len(), 4, "signing, id, cut and metadata key");
    secrets
}

/// The packs of the repository, decoded and opened by `look`.
async fn each_pack(repo: &TestRepo, mut look: impl FnMut(&Pack<'_>)) {
    let keys = repo.keys_with("/packs/").await;
    assert!(keys.len() >= 4, "{keys:?}");
    for key in keys {
        look(&Pack::decode(&repo.object(&key).await).unwrap());
    }
}

/// How many of a pack's frames one of these roots opens under any kind.
fn opened(pack: &Pack<'_>, roots: &[RootKey]) -> usize {
    let session = pack.head().writer();
    let opens = |position: &usize| {
        let frame = pack.directory()[*position].frame;
        let sealed = pack.frame(*position).unwrap();
        [UnitKind::Data, UnitKind::Metadata].into_iter().any(|kind| {
            let name = UnitName { kind, session, a: frame.pack.ordinal, b: frame.index };
            roots.iter().any(|root| open(root, &name, sealed).is_ok())
        })
    };
    (0..pack.directory().len()).filter(opens).count()
}

async fn frames_stay_closed(repo: &TestRepo, key_file: &str) {
    let secrets = secrets(key_file);
    let (mut data, mut metadata) = (0, 0);
    each_pack(repo, |pack| {
        let session = pack.head().writer();
        let roots: Vec<RootKey> = secrets
            .iter()
            .flat_map(|secret| [SessionKey(*secret).root(), RootKey::metadata(secret, &session)])
            .collect();
        let frames = pack.directory().len();
        match pack.head().kind {
            PackKind::Data => {
                assert_eq!(opened(pack, &roots), 0, "{} opens", pack.head().name());
                data += frames;
            }
            // Maps are for members of the zone; that these open shows that the attempt is a real one.
            PackKind::Metadata | PackKind::Annex => {
                assert_eq!(opened(pack, &roots), frames);
                metadata += frames;
            }
        }
    })
    .await;
    assert!(data > 2 && metadata > 1, "{data} data frames, {metadata} metadata frames");
}

/// The passphrase's keys open every data frame by the same attempt.
async fn frames_open_for(repo: &TestRepo, holder: &Repository) {
    let log = Log::load(holder).await.unwrap();
    each_pack(repo, |pack| {
        if pack.head().kind == PackKind::Data {
            let number = pack.head().writer().number;
            let entry = log.entry(number).unwrap().entry.as_ref().unwrap();
            let root = holder.keys.content_root(entry, "log").unwrap();
            assert_eq!(opened(pack, &[root]), pack.directory().len());
        }
    })
    .await;
}

/// Whether an age file opens with these bytes as its identity, or as the words of its passphrase.
fn age_opens(file: &[u8], secret: &[u8; 32]) -> bool {
    let text = |prefix: &str| {
        let prefix = bech32::Hrp::parse(prefix).unwrap();
        bech32::encode::<bech32::Bech32>(prefix, secret).unwrap().to_uppercase()
    };
    let texts = ["age-secret-key-", "age-secret-key-pq-"].map(text).join("\n");
    let IdentityFile::Open(identities) = IdentityFile::parse(texts.as_bytes()).unwrap() else { panic!() };
    let hex = sancerre_format::id::Hash(*secret).to_string();
    let mut passphrase = age::scrypt::Identity::new(SecretString::from(hex));
    passphrase.set_max_work_factor(22);
    let opens = |identity: &dyn age::Identity| {
        age::Decryptor::new(file).is_ok_and(|file| file.decrypt(std::iter::once(identity)).is_ok())
    };
    identities.iter().any(|identity| opens(identity.as_ref())) || opens(&passphrase)
}

/// Age files in an object, from each header on.
fn age_files(object: &[u8]) -> Vec<&[u8]> {
    let starts = (0..object.len()).filter(|at| object[*at..].starts_with(AGE));
    starts.map(|at| &object[at..]).collect()
}

async fn age_files_stay_closed(repo: &TestRepo, key_file: &str) {
    let mut found = 0;
    for (key, _) in repo.objects().await {
        let object = repo.object(&key).await;
        for file in age_files(&object) {
            found += 1;
            let opens = secrets(key_file).iter().any(|secret| age_opens(file, secret));
            assert!(!opens, "an age file in {key} opens");
        }
    }
    // Two sessions in the log and in their packs, zone, certificate, recipient, admin.
    assert!(found >= 8, "{found} age files");
}

#[tokio::test]
async fn a_key_file_opens_no_content_not_even_its_own() {
    let repo = TestRepo::new(5).await;
    let writer = repo.as_writer().await;
    back_up(&writer, "web01", MemoryDisk::new(noise(1, 2 << 20))).await.unwrap();
    back_up(&writer, "db01", MemoryDisk::new(noise(2, 1 << 20))).await.unwrap();
    let keeper = repo.certify("vault", Role::Keeper).await;
    for key_file in [&repo.key_file, &keeper] {
        frames_stay_closed(&repo, key_file).await;
        age_files_stay_closed(&repo, key_file).await;
    }
    frames_open_for(&repo, &repo.open).await;
}

#[test]
fn the_attempt_on_age_files_is_a_real_one() {
    let secret = [7; 32];
    let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret));
    let prefix = bech32::Hrp::parse("age").unwrap();
    let x25519 = bech32::encode::<bech32::Bech32>(prefix, public.as_bytes()).unwrap();
    let (text, hybrid) = recipients::new_key(&sancerre_tests::host::host(5).0).unwrap();
    let seed: [u8; 32] = bech32::decode(&text).unwrap().1.try_into().unwrap();
    for (recipient, secret) in [(x25519, secret), (hybrid, seed)] {
        let file = sancerre_tests::age::seal(&recipient, b"secret", |bytes| bytes.fill(3));
        assert!(age_opens(&file, &secret));
        assert!(!age_opens(&file, &[8; 32]));
    }
}
