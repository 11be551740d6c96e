//! What a message tells its reader to do next, as a value.
//!
//! Errors, findings and warnings name what can be done about them. A library does not know how its program calls that: the
//! command line has flags, a page has buttons. So messages name a [`Verb`] or a [`Setting`], and the program says once, with
//! [`speak`], how it spells them. Until then they read as the names of functions and fields:
//!
//! ```
//! use sancerre_advice::{Setting, Verb};
//!
//! let message = format!("object {} is missing; run {}", "a/b", Verb::Check);
//! assert_eq!(message, "object a/b is missing; run `check`");
//! assert_eq!(Verb::GiveUp("a/b".into()).to_string(), "`give_up(a/b)`");
//! assert_eq!(Setting::EvenLast.to_string(), "`even_last`");
//! ```
//!
//! # Why once in a process
//!
//! A message is made where something happens: in a job on another thread, in a parser, inside of another message. By the time
//! somebody shows it, it is a text. To say the words at that end, either every function that may fail would take them, or every
//! message would be kept as a template with its parts. Both cost more than a process with two vocabularies is worth, and so far
//! there is none.
//!
//! A program with two faces, say a page beside a command line, takes the step as the value that it is: an error of the engine
//! has its [`Advice`], whose [`Verb`] or [`Setting`] each face names as it likes. Only steps inside of sentences are then
//! spelled in the one way.

use std::fmt;
use std::sync::OnceLock;

/// Something that can be done with a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Gives up a gc, by its number.
    Abandon(u64),
    /// Makes a key.
    AddKey,
    /// Makes a writer's key under a new name.
    AddWriter,
    /// Consents to what waits for approval, or lists that.
    Approve,
    /// Looks at all zones without keys.
    Audit,
    /// Saves disks.
    Backup,
    /// Looks for damage, and says what depends on it.
    Check,
    /// Finds the last snapshots that nothing is suspected of.
    Clean,
    /// Says that what was suspected is not so.
    Clear,
    /// Says where on a disk a suspicion comes from.
    Explain,
    /// Makes the store lock for longer what snapshots need.
    ExtendLocks,
    /// Lets snapshots go.
    Forget,
    /// Lets this snapshot go: the beginning of its id.
    ForgetOne(String),
    /// Deletes what nothing needs.
    Gc,
    /// Says for good that an object will not come back, by its key.
    GiveUp(String),
    /// Makes a repository.
    Init,
    /// Lists keys and recipients.
    ListKeys,
    /// Joins small segments of the index.
    MergeIndex,
    /// Tries out what a store really does.
    Probe,
    /// Puts damage on record, so that nothing builds on it.
    Quarantine,
    /// Makes the index anew from packs.
    RebuildIndex,
    /// Ends a hold of this snapshot: the beginning of its id.
    Release(String),
    /// Shuts a restore recipient out.
    RemoveRecipient,
    /// Mends lost records, or says what can be done about them.
    Repair,
    /// Ends the trust in this keeper's key, by its name.
    RevokeKeeper(String),
    /// Ends the trust in a key.
    RevokeKey,
    /// Lists snapshots.
    Snapshots,
    /// Lists snapshots with all that is known of them.
    SnapshotDetails,
    /// Ends the use of what a key stored.
    TaintKey,
    /// Takes a forget back.
    Undelete,
    /// Takes a forget of this snapshot back: the beginning of its id.
    UndeleteOne(String),
}

/// Something that a caller can say about what is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Disks that change while they are read are saved.
    AllowChanging,
    /// Disks that are empty, or much smaller than before, are saved.
    AllowSmall,
    /// Disks that cannot be read whole are saved.
    AllowUnreadable,
    /// A file that is saved beside the disks.
    Attach,
    /// The command that begins a picture of a machine.
    Begin,
    /// The cache's folder.
    CacheFolder,
    /// The snapshot that a change map is of.
    ChangedSince,
    /// The hypervisor.
    Connection,
    /// Objects that a new admin key does not take over.
    DropObjects,
    /// A machine may lose its last snapshot.
    EvenLast,
    /// The form of an image.
    Format,
    /// A machine whose guest cannot be frozen is not saved.
    FreezeMust,
    /// Records that are given up, by their keys.
    GivenUp,
    /// A restore identity.
    Identity,
    /// How many snapshots are kept for how long.
    Keep,
    /// A key file.
    KeyFile,
    /// The name of a restore recipient.
    Label,
    /// The fewest bytes that a disk must have.
    LeastBytes,
    /// The name that a restored machine gets.
    MachineName,
    /// The largest share of a machine's snapshots that may go at once.
    MaxDrop,
    /// A bound of memory.
    Memory,
    /// No cache is kept.
    NoCache,
    /// Foreign bytes are read by a process that is not confined.
    NoSandbox,
    /// Only what could not be read the last time is read.
    OnlyUnreadable,
    /// What stands at a target goes.
    Overwrite,
    /// Where the passphrase comes from.
    Passphrase,
    /// The plan of what would go, however much that is, and nothing else.
    PlanOfAll,
    /// The form of an image that has none.
    RawFormat,
    /// A restore goes on where one stopped.
    Resume,
    /// How long a store that is away is waited for.
    RetryFor,
    /// The folder of sockets and locks.
    RunFolder,
    /// The folder for what guests overwrite while they are saved.
    Scratch,
    /// The file in which an audit remembers what it saw.
    StateFile,
    /// A disk that comes as a stream.
    Stdin,
    /// A machine.
    Vm,
    /// How long sessions that may be under way are waited for.
    Wait,
}

/// One step that a caller can take: most often the next one after an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// Do this.
    Do(Verb),
    /// Ask again, with this said.
    Set(Setting),
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Do(verb) => verb.fmt(f),
            Self::Set(setting) => setting.fmt(f),
        }
    }
}

/// How a program calls what its users can do.
pub trait Spelling: Send + Sync {
    /// A noun: messages say "run …" or "… shows that".
    fn verb(&self, verb: &Verb) -> String;

    /// A noun: messages say "with …".
    fn setting(&self, setting: Setting) -> String;
}

static WORDS: OnceLock<&'static dyn Spelling> = OnceLock::new();

/// Sets the words in which this process speaks to its users, as a logger is set: once, before any message is made. Whoever
/// comes later changes nothing, and false is returned.
pub fn speak(words: &'static dyn Spelling) -> bool {
    WORDS.set(words).is_ok()
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WORDS.get() {
            Some(words) => f.write_str(&words.verb(self)),
            None => self.plainly(f),
        }
    }
}

impl Verb {
    /// As the engine's own functions are called.
    fn plainly(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Abandon(gc) => return write!(f, "`abandon({gc})`"),
            Self::ForgetOne(id) => return write!(f, "`forget({id})`"),
            Self::GiveUp(key) => return write!(f, "`give_up({key})`"),
            Self::Release(id) => return write!(f, "`release({id})`"),
            Self::RevokeKeeper(key) => return write!(f, "`revoke({key})`"),
            Self::UndeleteOne(id) => return write!(f, "`undelete({id})`"),
            Self::AddKey | Self::AddWriter => "certify",
            Self::Approve => "approve",
            Self::Audit => "audit",
            Self::Backup => "backup",
            Self::Check => "check",
            Self::Clean => "clean",
            Self::Clear => "clear",
            Self::Explain => "explain",
            Self::ExtendLocks => "extend_locks",
            Self::Forget => "forget",
            Self::Gc => "gc",
            Self::Init => "init",
            Self::ListKeys => "overview",
            Self::MergeIndex => "merge_index",
            Self::Probe => "probe",
            Self::Quarantine => "quarantine",
            Self::RebuildIndex => "rebuild_index",
            Self::RemoveRecipient => "remove_recipient",
            Self::Repair => "repair",
            Self::RevokeKey => "revoke",
            Self::Snapshots | Self::SnapshotDetails => "snapshots",
            Self::TaintKey => "taint",
            Self::Undelete => "undelete",
        };
        write!(f, "`{name}`")
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WORDS.get() {
            Some(words) => f.write_str(&words.setting(*self)),
            None => write!(f, "`{}`", self.plainly()),
        }
    }
}

impl Setting {
    /// As the fields of options are called.
    fn plainly(self) -> &'static str {
        match self {
            Self::AllowChanging => "allow.changing",
            Self::AllowSmall => "allow.small",
            Self::AllowUnreadable => "allow.unreadable",
            Self::Attach => "attach",
            Self::Begin => "begin",
            Self::CacheFolder => "cache_folder",
            Self::ChangedSince => "changed_since",
            Self::Connection => "connection",
            Self::DropObjects => "drop",
            Self::EvenLast => "even_last",
            Self::Format => "format",
            Self::FreezeMust => "freeze",
            Self::GivenUp => "give_up",
            Self::Identity => "identity",
            Self::Keep => "keep",
            Self::KeyFile => "key_file",
            Self::Label => "label",
            Self::LeastBytes => "least_bytes",
            Self::MachineName => "machine_name",
            Self::MaxDrop => "max_drop_percent",
            Self::Memory => "memory_bytes",
            Self::NoCache => "no_cache",
            Self::NoSandbox => "no_sandbox",
            Self::OnlyUnreadable => "only_unreadable",
            Self::Overwrite => "overwrite",
            Self::Passphrase => "passphrase",
            Self::PlanOfAll => "dry_run",
            Self::RawFormat => "format = raw",
            Self::Resume => "resume",
            Self::RetryFor => "retry_for",
            Self::RunFolder => "run_folder",
            Self::Scratch => "scratch",
            Self::StateFile => "state",
            Self::Stdin => "stdin",
            Self::Vm => "vm",
            Self::Wait => "wait",
        }
    }
}
