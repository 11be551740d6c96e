"""FORMAT.md §7.2: outcomes that stand for log entries that are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from framesets import Lists, text_lines
from primitives import Damaged, SessionId, Unsupported, digest, require
from records import Record

if TYPE_CHECKING:
    from history import Session, Zone

KINDS = {b"sancerre-manifest-v1": "manifest", b"sancerre-commit-v1": "commit", b"sancerre-abort-v1": "abort"}
# The hash of an entry of whose bytes nothing is known.
UNKNOWN = bytes(32)
# No zone has this generation: it is whichever opens what the session sealed.
GENERATION_UNKNOWN = 0


class Lost:
    """The sessions of a zone whose entry is lost: what stands for them, and those for which nothing does."""

    def __init__(self, zone: Zone) -> None:
        self.zone, self.repository = zone, zone.repository
        # Of no session that is known, by what each says of itself; nothing, where it needs a later reader.
        self.claims: dict[SessionId, Record | None] = {}
        # Entries that came to nothing.
        self.ended: dict[int, SessionId] = {}
        # By previous entries: what stood at numbers, or that nothing did.
        self.told: dict[int, SessionId] = {}
        self.places = [int(key.rpartition("/")[2], 16) for key in self.repository.under(zone.prefix + "log/")]
        self.highest = max(self.places, default=0)
        for key in self.repository.under(zone.prefix + "outcome/"):
            self._claim(key, SessionId.parse(key.rpartition("/")[2]))

    def stand(self) -> Iterator[tuple[SessionId, Record]]:
        """What outcomes say of lost entries, the highest first: whether one came too late is decided above it. The zone
        must know each before it asks for the next."""
        while True:
            said = self.said()
            standing = ((said[number], self._standing(said[number])) for number in sorted(said, reverse=True))
            found = next(((id_, record) for id_, record in standing if record), None)
            if found is None:
                return
            id_, record = found
            if record.kind == "abort":
                self.ended[id_.number] = id_
            else:
                yield id_, record

    def unresolved(self) -> list[SessionId]:
        """Sessions that were there and for which nothing stands: no collector may go on above them."""
        said = self.said()
        unsaid = [id_ for id_ in self.claims if id_.number not in self.told and id_.number not in said and self._is_lost(id_)]
        unclear = [id_ for id_ in unsaid if len(self._alone(id_.number)) > 1 and self._may_stand_alone(id_.number, id_)]
        return sorted({*said.values(), *unclear, *self._disputed(), *self._untold()})

    def _untold(self) -> list[SessionId]:
        """What stands, or lies, at numbers where nothing verifies and nobody read what stood there."""
        admitted, top = self._admitted(), max(self.zone.sessions, default=0)
        found = []
        for number in sorted({*self.places, *self.zone.sessions, *self.ended}):
            session, ended = self.zone.sessions.get(number), self.ended.get(number)
            standing = session.id if session else ended or SessionId(number, UNKNOWN)
            is_whole = session is not None and not session.is_lost
            is_given_up = ended is not None and ended.hash == UNKNOWN
            if number < top and not (is_whole or is_given_up or number in self.told or str(standing) in admitted):
                found.append(standing)
        return found

    def _disputed(self) -> list[SessionId]:
        """What claims a number by itself at which something else stands, unless the admin said that this does."""
        admitted, disputed = self._admitted(), []
        for id_, record in self.claims.items():
            if record is None or record.kind == "abort" or self.zone.is_revoked(record.signer, id_.number):
                continue
            ended, there = self.ended.get(id_.number), self.zone.sessions.get(id_.number)
            if ended is not None and (ended.hash == UNKNOWN or str(ended) in admitted) or there is not None and str(there.id) in admitted:
                continue
            if ended is not None or (there.id != id_ if there is not None else bool(self._there(id_.number))):
                disputed.append(id_)
        return disputed

    def doubted(self) -> dict[SessionId, Record]:
        """Commits that nobody admitted: hints of where frames may lie."""
        at = self.said().values()
        claims = ((id_, self.claims.get(id_)) for id_ in at)
        return {id_: record for id_, record in claims if record is not None and record.kind == "commit"}

    def said(self) -> dict[int, SessionId]:
        """What stood at the numbers whose entry is lost, as far as nothing stands for it yet."""
        self.told = {}
        named: dict[int, SessionId] = {}
        for number, session in sorted(self.zone.sessions.items()):
            id_ = self._read_by(session)
            if id_ is not None and not session.is_void():
                self.told[number - 1] = id_
        for line in ("parent", "seen"):
            for number, session in sorted(self.zone.sessions.items()):
                for id_ in map(SessionId.parse, _names(session, line)):
                    if id_.number < number:
                        named.setdefault(id_.number, id_)
        named |= self.told
        # The admin's word comes first.
        named |= {id_.number: id_ for id_ in map(SessionId.parse, sorted(self._admitted(), reverse=True))}
        for number in {id_.number for id_ in self.claims}:
            alone = self._alone(number)
            if number not in named and len(alone) == 1 and self._may_stand_alone(number, alone[0]):
                named[number] = alone[0]
        for id_ in self.claims:
            if id_.hash == UNKNOWN:
                # The admin gave up what nobody knows of.
                named.setdefault(id_.number, id_)
        return {number: id_ for number, id_ in named.items() if self._is_lost(id_)}

    def _read_by(self, session: Session) -> SessionId | None:
        """What an entry says of the number before it. What fills that for a session whose outcome is there says nothing."""
        number, previous = session.id.number - 1, session.entry["previous"]
        claims = [id_ for id_, record in self.claims.items() if id_.number == number and (record is None or record.kind != "abort")]
        standing = self.zone.sessions.get(number)
        claims += [standing.id] if standing and standing.is_lost else []
        is_filler = any(digest(filler(id_)).hex() == previous for id_ in claims)
        return None if previous == "-" or is_filler else SessionId(number, bytes.fromhex(previous))

    def is_contradicted(self, id_: SessionId) -> bool:
        """Whether the entry above, trusted or not, has read other bytes than this entry's."""
        above = self.zone.sessions.get(id_.number + 1)
        return above is not None and self._read_by(above) not in (None, id_)

    def copies(self) -> list[tuple[SessionId, Record]]:
        """FORMAT.md §4.7: entries that are lost and of whose bytes there is a copy."""
        lost = {id_.hash: id_ for id_ in self.said().values() if id_.hash != UNKNOWN}
        found = []
        for key in [*self.repository.under("keys/revoked/"), *self.repository.under("keys/quorums/")]:
            try:
                data = self.repository.read(key)
                if digest(data) in lost:
                    found.append((lost[digest(data)], self.repository.verified(key, "log")))
            except (Damaged, Unsupported):
                continue
        return found

    def _is_lost(self, id_: SessionId) -> bool:
        """Nothing verifies at its key, and what is there is not what stood there: that was never an entry. Nor was there
        one where the entry above follows on what fills a number."""
        if id_.number < 1 or id_.number in self.zone.sessions or id_.number in self.ended:
            return False
        hashes = [UNKNOWN, *(claim.hash for claim in self.claims if claim.number == id_.number)]
        fillers = [filler(SessionId(id_.number, hash_)) for hash_ in hashes]
        return id_.hash not in [digest(data) for data in [*fillers, *self._there(id_.number)]]

    def _there(self, number: int) -> list[bytes]:
        key = f"{self.zone.prefix}log/{number:016x}"
        try:
            return [self.repository.read(key)] if key in self.repository.keys else []
        except Damaged:
            return []

    def _alone(self, number: int) -> list[SessionId]:
        """The sessions that could have stood at a number by their own outcomes: of each signer the one with the least hash;
        of several signers' that for which the number is filled, if it is one of them."""
        at = [(id_, record) for id_, record in sorted(self.claims.items()) if id_.number == number and record is not None]
        counting = [
            (id_, record.signer.key)
            for id_, record in at
            if not self.zone.is_revoked(record.signer, number) and (record.kind == "commit" or record.kind == "manifest" and not self._is_late(id_))
        ]
        least = [id_ for at, (id_, key) in enumerate(counting) if key not in [other for _, other in counting[:at]]]
        filled = [id_ for id_ in least if filler(id_) in self._there(number)]
        return filled if len(least) > 1 and filled else least

    def _may_stand_alone(self, number: int, id_: SessionId) -> bool:
        if number >= self.highest:
            return all(len(self._alone(below)) == 1 for below in range(self.highest + 1, number))
        record = self.claims[id_]
        return record is not None and record.kind == "manifest" and number not in self.told

    def _standing(self, id_: SessionId) -> Record | None:
        """The outcome that stands for an entry, if one does. What the admin gave up unseen stays so."""
        record, given_up = self.claims.get(id_), self.claims.get(SessionId(id_.number, UNKNOWN))
        if given_up is not None:
            return given_up
        stands = record is not None and {
            "manifest": lambda: not self._is_late(id_),
            "commit": lambda: str(id_) in self._admitted(),
            "abort": lambda: True,
        }[record.kind]()
        return record if stands else None

    def _is_late(self, id_: SessionId) -> bool:
        """Whether commits above it count, and none knew it."""
        abandoned = self.zone.abandoned_below(1 << 64)
        sessions = [session for number, session in self.zone.sessions.items() if number > id_.number and not session.is_void()]
        counting = [session.lists for session in sessions if session.lists and str(session.id) not in abandoned]
        return bool(counting) and not any(str(id_) in lists.seen + lists.forgotten for lists in counting)

    def _admitted(self) -> set[str]:
        """The sessions of which the admin noted that they stand."""
        admitted = set()
        for session in self.zone.sessions.values():
            if session.kind == "note" and session.entry["topic"] == "repair" and session.entry.signer.role == "admin" and not session.is_void():
                try:
                    lines = text_lines(session.entry.public, "sancerre-repair-v1")
                except (Damaged, Unsupported):
                    continue
                admitted |= {line.removeprefix("session: ") for line in lines if line.startswith("session: ")}
        return admitted

    def _claim(self, key: str, id_: SessionId) -> None:
        """Takes an outcome of no session that is known, if it verifies by itself."""
        session = self.zone.sessions.get(id_.number)
        if session is not None and session.id == id_:
            return
        try:
            data = self.repository.read(key)
            kind = KINDS.get(data.partition(b"\n")[0])
            record = self.repository.verified(key, kind) if kind else None
            if record is not None and record.kind == "commit":
                Lists(record.public, id_.number)
            if record is not None and _may_stand(self.zone, id_, record):
                self.claims[id_] = record
        except Unsupported:
            self.claims[id_] = None
        except Damaged:
            return


def filler(id_: SessionId) -> bytes:
    """What fills a number at which nothing is."""
    return f"sancerre-lost-v1\nsession: {id_}\n".encode()


def implied(outcome: Record) -> Record:
    """The entry for which an outcome stands."""
    values = {"zone": [outcome["zone"]], "previous": ["-"], "epoch": ["0"], "commitment": ["-"], "generation": [str(GENERATION_UNKNOWN)]}
    if outcome.kind == "manifest":
        values |= {"kind": ["backup"], "time": [outcome["started"]], "vm": outcome.values["vm"]}
        values |= {"machine": outcome.values["machine"], "parent": outcome.values["parent"]}
        return Record(b"", "log", outcome.signer, b"", b"", values)
    return Record(b"", "log", outcome.signer, outcome.public, b"", values | {"kind": ["gc"], "time": [outcome["time"]]})


def _may_stand(zone: Zone, id_: SessionId, record: Record) -> bool:
    signer, time = record.signer, record["started" if record.kind == "manifest" else "time"]
    is_here = (record["zone"], record["session"]) == (zone.name, str(id_))
    is_known = id_.hash != UNKNOWN or (record.kind == "abort" and signer.role == "admin")
    return is_here and is_known and (signer.expires == "-" or time <= signer.expires)


def _names(session: Session, line: str) -> list[str]:
    """The sessions below that a valid backup or commit names."""
    if session.is_void():
        return []
    return session.entry.values.get("parent", []) if line == "parent" else session.lists.seen if session.lists else []
