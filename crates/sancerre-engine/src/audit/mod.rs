//! Audit: is the repository what its records say, seen by somebody who holds no secret.
//!
//! ```text
//! fingerprint ──> config ──> zones ──> log ──> check (what is public) ──> findings
//!                                       ├──> machines: what became of each backup, and how old the newest is
//!                                       └──> state: is everything still there that an earlier audit saw
//! ```
//!
//! The verification itself is that of [`check`](mod@crate::check), with no keys at hand. What only an audit does is here:
//! it looks at all zones, remembers, and asks how old the newest snapshots are.

mod machine;
mod state;

use std::collections::BTreeSet;

use sancerre_format::names::{self, Time, Title, Zone};
use sancerre_format::record::Trust;

pub use machine::{Drill, Fate, MachineAudit, Run, Stale, Undrilled};
pub use state::{AuditState, LogMark};

use crate::check::{CheckOptions, CheckReport, Finding, ReadData, Severity, check_log};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::keys::{Anchored, Keys};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::store::Store;

/// What to audit, and how.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// OpenSSH fingerprint of the admin's key, `SHA256:…`: the trust anchor.
    pub trust: String,
    /// Only this zone.
    pub zone: Option<Zone>,
    /// Which packs are read.
    pub read_data: ReadData,
    /// How old the newest snapshot of each machine may be.
    pub max_age_seconds: Option<u64>,
    /// How long ago each machine may have passed a drill.
    pub max_drill_age_seconds: Option<u64>,
    /// Machines that are not backed up any more.
    pub retired: Vec<Title>,
    /// What earlier audits saw.
    pub state: Option<AuditState>,
}

impl AuditOptions {
    /// Everything in all zones, but the data of packs; nothing is remembered from before.
    pub fn new(trust: String) -> Self {
        Self {
            trust,
            zone: None,
            read_data: ReadData::No,
            max_age_seconds: None,
            max_drill_age_seconds: None,
            retired: Vec::new(),
            state: None,
        }
    }
}

/// What an audit found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AuditReport {
    /// The repository and the key that it was verified against.
    pub trust: Trust,
    /// When the repository was made.
    pub created: Time,
    /// When it was audited.
    pub time: Time,
    /// What was found outside of the zones.
    pub findings: Vec<Finding>,
    /// The zones.
    pub zones: Vec<ZoneAudit>,
    /// What to remember; none when what was remembered is contradicted, so that the next audit says so again.
    pub state: Option<AuditState>,
}

/// What an audit found in one zone.
#[derive(Debug, Clone)]
pub struct ZoneAudit {
    /// Which.
    pub zone: Zone,
    /// What it looked like.
    pub mark: LogMark,
    /// When it was audited before, if that is remembered.
    pub seen_before: Option<Time>,
    /// What was checked and found.
    pub check: CheckReport,
    /// Its machines.
    pub machines: Vec<MachineAudit>,
}

impl AuditReport {
    /// Everything found.
    pub fn all_findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().chain(self.zones.iter().flat_map(|zone| &zone.check.findings))
    }

    /// Every machine whose newest snapshot is too old.
    pub fn stale(&self) -> impl Iterator<Item = (&Zone, &MachineAudit, &Stale)> {
        self.machines().filter_map(|(zone, machine)| Some((zone, machine, machine.stale.as_ref()?)))
    }

    /// Every machine that did not pass a drill lately enough.
    pub fn undrilled(&self) -> impl Iterator<Item = (&Zone, &MachineAudit, &Undrilled)> {
        self.machines().filter_map(|(zone, machine)| Some((zone, machine, machine.undrilled.as_ref()?)))
    }

    fn machines(&self) -> impl Iterator<Item = (&Zone, &MachineAudit)> {
        self.zones.iter().flat_map(|zone| zone.machines.iter().map(move |vm| (&zone.zone, vm)))
    }
}

/// Audits a repository. Nothing is written to the store, and nothing secret is needed.
///
/// Errors: [`Error::WrongKey`] when the repository's admin key is not the one of the fingerprint; a store that does not
/// answer; an interrupt; [`Error::Usage`] for options that make no sense. Damage is no error but a finding.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let Scene { store, host, monitor, made, .. } = scene;
/// use sancerre_engine::{AuditOptions, audit};
///
/// // All that an auditor needs is the fingerprint of the admin's key.
/// let report = audit(&store, &host, &AuditOptions::new(made.trust.admin.fingerprint()), &monitor).await?;
/// assert_eq!(report.zones.len(), 1);
/// assert_eq!(report.stale().count(), 0);
/// # Ok(()) }
/// ```
pub async fn audit(
    store: &Store,
    host: &Host,
    options: &AuditOptions,
    monitor: &Monitor,
) -> Result<AuditReport> {
    options.read_data.validate()?;
    let (trust, created) = open(store, &options.trust).await?;
    if let Some(state) = &options.state {
        state.belongs_to(&trust)?;
    }
    let mut report = AuditReport {
        trust: trust.clone(),
        created,
        time: host.clock.now(),
        findings: Vec::new(),
        zones: Vec::new(),
        state: None,
    };
    let mut state = options.state.clone().unwrap_or_else(|| AuditState::new(&trust));
    let zones = zones(store, options, &mut report.findings).await?;
    let mut is_contradicted = note_gone(&zones, options, &mut report.findings);
    for zone in zones {
        let repository =
            Repository::open(store.clone(), host.clone(), Keys::public(trust.clone(), zone)).await?;
        is_contradicted |= audit_zone(&repository, options, monitor, &mut report, &mut state).await?;
    }
    report.state = (!is_contradicted).then_some(state);
    Ok(report)
}

/// The configuration, against the fingerprint that the auditor brought along.
async fn open(store: &Store, fingerprint: &str) -> Result<(Trust, Time)> {
    let Anchored { config, trust, .. } = Anchored::read(store, None).await?;
    let found = config.admin.fingerprint();
    if !trust.admins().any(|admin| admin.fingerprint() == fingerprint) {
        return Err(Error::WrongKey {
            what: format!(
                "the trust anchor does not fit: you gave {fingerprint}, the configuration at {} names {found}, and no admin key that followed it is that",
                store.location()
            ),
            advice:
                "if the location is the right one, somebody replaced the configuration: compare with the \
                     fingerprint that was written down when the repository was made, and trust nothing there"
                    .into(),
        });
    }
    Ok((trust, config.created))
}

/// Every zone that has a key record or objects.
async fn zones(store: &Store, options: &AuditOptions, findings: &mut Vec<Finding>) -> Result<BTreeSet<Zone>> {
    if let Some(zone) = &options.zone {
        return Ok(BTreeSet::from([zone.clone()]));
    }
    // A key of that form is enough: to look into a zone that is none finds nothing.
    let listed = store.list(names::ZONES).await?;
    let mut zones: BTreeSet<Zone> =
        listed.iter().filter_map(|listed| names::zone_of_key(&listed.key)).collect();
    for folder in store.folders(names::ZONE_FOLDERS).await? {
        match Zone::new(&folder) {
            Ok(zone) => drop(zones.insert(zone)),
            Err(_) => findings.push(Finding::new(
                Severity::Note,
                format!("{}{folder}/", names::ZONE_FOLDERS),
                "it belongs to nothing and is ignored",
            )),
        }
    }
    Ok(zones)
}

/// Zones that an earlier audit saw and of which nothing is left; says whether there are any.
fn note_gone(zones: &BTreeSet<Zone>, options: &AuditOptions, findings: &mut Vec<Finding>) -> bool {
    let remembered = options.state.iter().flat_map(AuditState::zones);
    let asked = remembered.filter(|zone| options.zone.as_ref().is_none_or(|only| only == *zone));
    let gone = asked.filter(|zone| !zones.contains(*zone)).map(|zone| {
        Finding::new(
            Severity::Missing,
            format!("{}{zone}/", names::ZONE_FOLDERS),
            "nothing of this zone is there any more, and an earlier audit saw it",
        )
    });
    let before = findings.len();
    findings.extend(gone);
    findings.len() > before
}

/// Audits a zone; says whether what was remembered of it is contradicted.
async fn audit_zone(
    repository: &Repository,
    options: &AuditOptions,
    monitor: &Monitor,
    report: &mut AuditReport,
    state: &mut AuditState,
) -> Result<bool> {
    let zone = &repository.keys.zone;
    let mut log = Log::load(repository).await?;
    log.judge();
    let checked = CheckOptions::new(options.read_data);
    let mut check = check_log(repository, &log, &checked, monitor).await?;

    let contradictions = state.compare(zone, &log);
    let is_contradicted = !contradictions.is_empty();
    let seen_before = state.time(zone);
    check.findings.extend(contradictions);
    check.findings.sort_by(|a, b| (a.severity, &a.object).cmp(&(b.severity, &b.object)));
    for finding in check.findings.extract_if(.., |finding| !finding.object.starts_with(names::ZONE_FOLDERS)) {
        // Keys are of the repository: each zone's check names them.
        if !report.findings.contains(&finding) {
            report.findings.push(finding);
        }
    }
    let mut machines = machine::machines(&log);
    for machine in machines.iter_mut().filter(|machine| !options.retired.contains(&machine.vm)) {
        if let Some(seconds) = options.max_age_seconds {
            machine.judge(report.time, seconds);
        }
        if let Some(seconds) = options.max_drill_age_seconds {
            machine.judge_drill(report.time, seconds);
        }
    }
    let mark = state.remember(zone, &log, report.time);
    report.zones.push(ZoneAudit { zone: zone.clone(), mark, seen_before, check, machines });
    Ok(is_contradicted)
}
