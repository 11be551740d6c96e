"""FORMAT.md §7: what forgets, holds, approvals and suspicions say of snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from records import Signer

if TYPE_CHECKING:
    from history import Session


@dataclass
class Pending:
    """An entry that waits for the approval of other keepers."""

    signer: Signer
    needed: int
    snapshots: list[str] = field(default_factory=list)
    # What is held no longer, rather than forgotten: snapshots and machines.
    releases: bool = False
    machines: list[str] = field(default_factory=list)
    # What is not suspect any more.
    clears: bool = False
    quorum: int | None = None
    approvals: list[Signer] = field(default_factory=list)

    def approve(self, signer: Signer) -> bool:
        """Adds an approval; whether as many as are needed are there."""
        others = [self.signer, *self.approvals]
        if signer.role == "keeper" and all(signer.name != other.name and signer.key != other.key for other in others):
            self.approvals.append(signer)
        return len(self.approvals) >= self.needed


@dataclass
class Backed:
    """Whose backup a session is."""

    number: int
    vm: str
    machine: str
    signer: Signer
    void_by: int | None = None

    def is_of(self, other: Backed) -> bool:
        if "-" in (self.machine, other.machine):
            return self.vm == other.vm
        return self.machine == other.machine


class Standing:
    """What the entries say that were applied in their order. `gone`: snapshots that nothing brings back."""

    def __init__(self, needed: int, gone: set[str]) -> None:
        self.needed = needed
        self.gone = gone
        self.backups: dict[str, Backed] = {}
        self.suspects: set[str] = set()
        self.forgotten: set[str] = set()
        self.held: set[str] = set()
        self.held_machines: set[str] = set()
        self.machines: dict[str, str] = {}
        self.retained: dict[str, str] = {}
        self.pending: dict[str, Pending] = {}

    def is_live(self, id_: str) -> bool:
        held = id_ in self.held or self.machines.get(id_) in self.held_machines or self._is_kept(id_)
        return id_ not in self.forgotten or held

    def _is_kept(self, id_: str) -> bool:
        """Whether it is suspect, from before its machine's first suspect snapshot, or more than three machines are suspect."""
        suspects = [self.backups[one] for one in self.suspects if one in self.backups and one not in self.gone]
        machines: list[Backed] = []
        for suspect in sorted(suspects, key=lambda suspect: suspect.number):
            if not any(suspect.is_of(other) for other in machines):
                machines.append(suspect)
        if len(machines) > 3:
            return True
        own = self.backups.get(id_)
        numbers = [suspect.number for suspect in suspects if own and suspect.is_of(own)]
        return bool(own and numbers) and (own.number <= min(numbers) or id_ in self.suspects)

    def _note(self, session: Session) -> None:
        entry = session.entry
        if entry["topic"] != "suspicion":
            return
        is_keeper = entry.signer.role in ("keeper", "admin")
        snapshots = entry.values["snapshot"]
        if entry["result"] == "cleared" and is_keeper:
            self._ask(str(session.id), Pending(entry.signer, self.needed, snapshots=snapshots, clears=True))
        elif entry["result"] == "suspect":
            known = [(one, self.backups[one]) for one in snapshots if one in self.backups]
            known = [(one, backed) for one, backed in known if backed.void_by is None or backed.void_by >= session.id.number]
            counted = [one for one, backed in known if is_keeper or backed.signer.name == entry.signer.name]
            self.suspects.update(counted)
            for waiting in self.pending.values():
                if waiting.clears:
                    waiting.snapshots = [one for one in waiting.snapshots if one not in counted]

    def apply(self, session: Session) -> None:
        entry, id_ = session.entry, str(session.id)
        snapshots = entry.values.get("snapshot", [])
        if session.kind == "backup":
            self.machines[id_] = entry["vm"]
            if not (session.outcome and session.outcome.kind == "abort"):
                self.backups[id_] = Backed(session.id.number, entry["vm"], entry["machine"], entry.signer, session.void_by)
            if session.manifest and session.manifest["retain-until"] != "-":
                self.retained[id_] = session.manifest["retain-until"]
        elif session.kind == "forget":
            may_go = [one for one in snapshots if self.retained.get(one, "") <= entry["time"]]
            self._ask(id_, Pending(entry.signer, self.needed, snapshots=may_go))
        elif session.kind == "quorum":
            quorum = entry.number("approvals-needed")
            self._ask(id_, Pending(entry.signer, 0 if quorum >= self.needed else self.needed, quorum=quorum))
        elif session.kind == "approve":
            for one in entry.values["entry"]:
                if one in self.pending and self.pending[one].approve(entry.signer):
                    self._grant(self.pending.pop(one))
        elif session.kind == "undelete":
            self.forgotten.difference_update(snapshots)
            for waiting in self.pending.values():
                if not waiting.releases and not waiting.clears:
                    waiting.snapshots = [one for one in waiting.snapshots if one not in snapshots]
        elif session.kind == "hold":
            self.held.update(snapshots)
            self.held_machines.update(entry.values["vm"])
            for waiting in self.pending.values():
                if waiting.releases:
                    waiting.snapshots = [one for one in waiting.snapshots if one not in snapshots]
                    waiting.machines = [one for one in waiting.machines if one not in entry.values["vm"]]
        elif session.kind == "note":
            self._note(session)
        elif session.kind == "release":
            self._ask(id_, Pending(entry.signer, self.needed, snapshots=snapshots, releases=True, machines=entry.values["vm"]))

    def _ask(self, id_: str, request: Pending) -> None:
        if request.needed == 0:
            self._grant(request)
        else:
            self.pending[id_] = request

    def _grant(self, request: Pending) -> None:
        if request.releases:
            self.held.difference_update(request.snapshots)
            self.held_machines.difference_update(request.machines)
        elif request.clears:
            self.suspects.difference_update(request.snapshots)
        elif request.quorum is None:
            self.forgotten.update(request.snapshots)
        else:
            self.needed = request.quorum
            self.pending = {id_: one for id_, one in self.pending.items() if one.quorum is None}
