"""FORMAT.md §7.2: outcomes that stand for log entries that are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from primitives import Damaged, SessionId, digest
from records import Record

if TYPE_CHECKING:
    from history import Zone

# A generation that no zone has is not taken: the newest that is announced opens it, or none does.
GENERATION = 1


def stand_in(zone: Zone) -> dict[int, Record]:
    """By number: what an outcome says of the entry that is lost there. Each is reported."""
    found: dict[int, Record] = {}
    for number, hash_ in _said(zone).items():
        key, repository = f"{zone.prefix}log/{number:016x}", zone.repository
        there = key in repository.keys and digest(repository.read(key)).hex() == hash_
        outcome = f"{zone.prefix}outcome/{number:016x}-{hash_}"
        if number in zone.sessions or there or outcome not in repository.keys:
            continue
        try:
            record = _entry(zone, outcome)
        except Damaged as error:
            repository.report(outcome, str(error))
            continue
        if record is not None:
            repository.report(key, "lost; the outcome of its session stands for it")
            found[number] = record
    return found


def said(zone: Zone, number: int) -> SessionId:
    """The session that stood at a number."""
    return SessionId(number, bytes.fromhex(_said(zone)[number]))


def _said(zone: Zone) -> dict[int, str]:
    """What stood at numbers, by the entries above."""
    hashes: dict[int, str] = {}
    for number, session in zone.sessions.items():
        if session.entry["previous"] != "-":
            hashes[number - 1] = session.entry["previous"]
    for number, session in zone.sessions.items():
        for parent in session.entry.values.get("parent", []):
            id_, _, hash_ = parent.partition("-")
            if int(id_, 16) < number:
                hashes.setdefault(int(id_, 16), hash_)
    return hashes


def _entry(zone: Zone, key: str) -> Record | None:
    first = zone.repository.read(key).partition(b"\n")[0]
    kind = {b"sancerre-manifest-v1": "manifest", b"sancerre-commit-v1": "commit"}.get(first)
    record = zone.repository.decode(key, kind) if kind else None
    if record is None or record["zone"] != zone.name or record["session"] != key.rpartition("/")[2]:
        return None
    generations = [other.entry.number("generation") for other in zone.sessions.values() if other.kind in ("backup", "gc")]
    values = {"zone": [zone.name], "previous": ["-"], "epoch": ["0"], "commitment": ["-"]}
    values["generation"] = [str(max(generations, default=GENERATION))]
    if kind == "manifest":
        values |= {"kind": ["backup"], "time": [record["started"]], "vm": record.values["vm"]}
        values |= {"machine": record.values["machine"], "parent": record.values["parent"]}
        return Record(b"", "log", record.signer, b"", b"", values)
    return Record(b"", "log", record.signer, record.public, b"", values | {"kind": ["gc"], "time": [record["time"]]})
