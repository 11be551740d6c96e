//! How the command line spells what messages tell their readers to do: commands, and their flags and variables.

use sancerre_advice::{Setting, Spelling, Verb};

struct Flags;

/// Has the libraries' messages name this program's commands and flags.
pub fn spell() {
    // What is set already is this, by an earlier command in the same process.
    let _ = sancerre_advice::speak(&Flags);
}

impl Spelling for Flags {
    fn verb(&self, verb: &Verb) -> String {
        format!("`sancerre {}`", command(verb))
    }

    fn setting(&self, setting: Setting) -> String {
        flag(setting).to_owned()
    }
}

fn command(verb: &Verb) -> String {
    let command = match verb {
        Verb::Abandon(gc) => return format!("gc --abandon {gc}"),
        Verb::ForgetOne(id) => return format!("forget {id}"),
        Verb::GiveUp(key) => return format!("repair --give-up {key}"),
        Verb::Release(id) => return format!("release {id}"),
        Verb::RevokeKeeper(key) => return format!("key revoke keeper {key}"),
        Verb::UndeleteOne(id) => return format!("undelete {id}"),
        Verb::AddKey => "key add",
        Verb::AddWriter => "key add writer NEW-NAME --out FILE",
        Verb::Approve => "approve",
        Verb::Audit => "audit",
        Verb::Backup => "backup",
        Verb::Check => "check",
        Verb::Clean => "clean",
        Verb::Clear => "clear",
        Verb::Explain => "explain",
        Verb::ExtendLocks => "lock extend",
        Verb::Forget => "forget",
        Verb::Gc => "gc",
        Verb::Init => "init",
        Verb::ListKeys => "key list",
        Verb::MergeIndex => "index merge",
        Verb::Probe => "doctor",
        Verb::Quarantine => "check --quarantine",
        Verb::RebuildIndex => "index rebuild",
        Verb::RemoveRecipient => "key remove restore",
        Verb::Repair => "repair",
        Verb::RevokeKey => "key revoke",
        Verb::Snapshots => "snapshots",
        Verb::SnapshotDetails => "snapshots --json",
        Verb::TaintKey => "key taint",
        Verb::Undelete => "undelete",
    };
    command.to_owned()
}

fn flag(setting: Setting) -> &'static str {
    match setting {
        Setting::AllowChanging => "--allow-changing",
        Setting::AllowSmall => "--allow-small",
        Setting::AllowUnreadable => "--allow-unreadable",
        Setting::Attach => "--attach",
        Setting::Begin => "--begin",
        Setting::CacheFolder => "--cache-dir",
        Setting::ChangedSince => "--changed-since",
        Setting::Connection => "--connect",
        Setting::DropObjects => "--drop",
        Setting::EvenLast => "--even-last",
        Setting::Format => "--format",
        Setting::FreezeMust => "--freeze must",
        Setting::GivenUp => "--give-up",
        Setting::Identity => "--identity",
        Setting::Keep => "--keep-daily 7 --keep-weekly 4",
        Setting::KeyFile => "--key-file",
        Setting::Label => "--label",
        Setting::LeastBytes => "--expect-min",
        Setting::MachineName => "--as",
        Setting::MaxDrop => "--max-drop",
        Setting::Memory => "--memory",
        Setting::NoCache => "--no-cache",
        Setting::NoSandbox => "--no-sandbox",
        Setting::OnlyUnreadable => "--only-unreadable",
        Setting::Overwrite => "--overwrite",
        Setting::Passphrase => "SANCERRE_PASSWORD, SANCERRE_PASSWORD_FILE or SANCERRE_PASSWORD_COMMAND",
        Setting::PlanOfAll => "--dry-run --max-drop 100%",
        Setting::RawFormat => "--format raw",
        Setting::Resume => "--resume",
        Setting::RetryFor => "--retry-for",
        Setting::RunFolder => "--run-dir",
        Setting::Scratch => "--scratch",
        Setting::StateFile => "--state",
        Setting::Stdin => "--stdin",
        Setting::Vm => "--vm",
        Setting::Wait => "--wait",
    }
}
