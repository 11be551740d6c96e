"""FORMAT.md §6–§9: the log of a zone, and what hangs on it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Callable, Iterator

from framesets import FrameSet, Lists
from lost import UNKNOWN, Lost, implied
from packs import Pack
from primitives import Damaged, FrameName, SessionId, Unsupported, digest, require
from records import Record, Signer
from standing import Standing
from repository import Repository


@dataclass(frozen=True)
class Listed:
    """A pack as a signed list names it."""

    key: str
    kind: str
    size: int
    sha256: str
    tail: str
    frames: int


@dataclass
class Session:
    """A log entry that verifies, and what its signer published under its number."""

    id: SessionId
    entry: Record
    outcome: Record | None = None
    # An outcome is there that does not verify.
    unreadable: bool = False
    # What a commit says.
    lists: Lists | None = None
    # Its entry is not there: its outcome says what it was.
    is_lost: bool = False
    # An admin key signed it that was replaced since.
    is_of_old_admin: bool = False
    # The lowest revocation that makes it void.
    void_by: int | None = None
    packs: dict[int, Listed] = field(default_factory=dict)
    segments: list[Record] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.entry["kind"]

    @property
    def manifest(self) -> Record | None:
        return self.outcome if self.outcome and self.outcome.kind == "manifest" else None

    def is_void(self, below: int = 1 << 64) -> bool:
        """Whether a revocation below a number says so."""
        return self.void_by is not None and self.void_by < below


class Zone:
    """A zone's sessions by number. What does not verify was reported and is not here."""

    def __init__(self, repository: Repository, name: str) -> None:
        self.repository, self.name, self.prefix = repository, name, f"zones/{name}/"
        self.sessions: dict[int, Session] = {}
        self.moves: dict[FrameName, tuple[int, int]] = {}
        # To where any commit ever moved a frame, believed or not.
        self.claimed: dict[FrameName, list[tuple[int, int]]] = {}
        self.dead: set[tuple[int, int]] = set()
        self.burnt_by: dict[tuple[int, int], int] = {}
        self.forgotten: set[str] = set()
        # Of these, by which commit.
        self.given_up_by: dict[str, int] = {}
        # Commits above lost entries that nobody admitted: what they moved may be where they say.
        self.doubted: dict[int, Session] = {}
        self._read_log()
        self._distrust_old_admins()
        self._revoke()
        for key in repository.under(self.prefix + "outcome/"):
            if self._is_known(key):
                self._checked(key, self._read_outcome)
        self._stand_in(Lost(self))
        for number, session in self.sessions.items():
            if session.is_void():
                repository.report(f"{self.prefix}log/{number:016x}", f"its signer {session.entry.signer.name} is revoked")
        self.abandoned = self.abandoned_below(1 << 64)
        self._follow()
        for key in repository.under(self.prefix + "lists/"):
            self._checked(key, self._read_list)
        for key in repository.under(self.prefix + "index/"):
            self._checked(key, self._read_segment)
        self._find_gaps()

    def snapshots(self) -> list[Session]:
        """All but those that a collector gave up: what only they needed is gone."""
        return [session for session in self._committed() if str(session.id) not in self.forgotten]

    def packs_of(self, frame: FrameName) -> Iterator[tuple[int, int]]:
        """The packs that are there and may hold a frame, the best first: that of its name, or the one to which the last commit
        moved it; any to which a commit ever moved it; a copy of a collector that was abandoned."""
        hints = [(number, session.lists.moves[frame]) for number, session in self.doubted.items() if session.lists and frame in session.lists.moves]
        places = [self.moves.get(frame, frame[:2]), *reversed(self.claimed.get(frame, [])), frame[:2], *hints]
        yield from (place for place in dict.fromkeys(places) if self._is_there(*place))
        if frame in self._copies:
            yield self._copies[frame]

    def _is_there(self, number: int, ordinal: int) -> bool:
        session = self.storing(number)
        listed = session.packs.get(ordinal) if session else None
        return listed.key in self.repository.keys if listed else (number, ordinal) in self._unlisted

    @cached_property
    def _unlisted(self) -> dict[tuple[int, int], list[str]]:
        """Packs that no list names, by the names that their keys give them."""
        listed = {pack.key for session in [*self.sessions.values(), *self.doubted.values()] for pack in session.packs.values()}
        found: dict[tuple[int, int], list[str]] = {}
        for key in (key for key in self.repository.under(self.prefix + "packs/") if key not in listed):
            number, name = key.split("/")[-2:]
            found.setdefault((int(number, 16), int(name[:8], 16)), []).append(key)
        return found

    @cached_property
    def _copies(self) -> dict[FrameName, tuple[int, int]]:
        """What lies in the packs of abandoned collectors."""
        copies = {}
        for number in (SessionId.parse(id_).number for id_ in self.abandoned):
            for ordinal in self.sessions[number].packs:
                try:
                    copies.update({frame.name: (number, ordinal) for frame in self.read_pack(number, ordinal).frames})
                except Damaged:
                    continue
        return copies

    def read_pack(self, number: int, ordinal: int, is_whole: bool = True) -> Pack:
        """A pack, checked against the list that names it; where not all of it is asked for, only what its tail proves."""
        session = self.storing(number)
        listed = session.packs.get(ordinal) if session else None
        if session is None or listed is None:
            return self._read_unlisted(number, ordinal)
        data = self.repository.read(listed.key)
        require(len(data) == listed.size, f"{len(data)} bytes instead of {listed.size}")
        if is_whole:
            require(listed.key.endswith("-" + digest(data).hex()), "the bytes are not those of its name")
            require(hashlib.sha256(data).hexdigest() == listed.sha256, "the SHA-256 is another than listed")
        pack = Pack(data)
        require(pack.repository.hex() == self.repository.id, "a pack of another repository")
        require((pack.session, pack.ordinal) == (session.id, ordinal), "a pack of another session")
        require(("data", "meta", "annex")[pack.kind - 1] == listed.kind, "a pack of another kind than listed")
        require(pack.tail_hash.hex() == listed.tail and len(pack.frames) == listed.frames, "another tail than listed")
        return pack

    def _read_unlisted(self, number: int, ordinal: int) -> Pack:
        """A pack that no list names, by what it says itself; the ids of what is in it prove the rest."""
        session = self.storing(number)
        for key in self._unlisted.get((number, ordinal), []):
            try:
                pack = Pack(self.repository.read(key))
            except (Damaged, Unsupported):
                continue
            fits = (pack.repository.hex(), pack.session.number, pack.ordinal) == (self.repository.id, number, ordinal)
            if fits and (session is None or pack.session == session.id):
                return pack
        raise Damaged(f"no list names pack {number}/{ordinal}")

    def storing(self, number: int) -> Session | None:
        """The session that may have packs of this number."""
        return self.sessions.get(number) or self.doubted.get(number)

    def _is_known(self, key: str) -> bool:
        id_ = SessionId.parse(key.rpartition("/")[2])
        return id_.number in self.sessions and self.sessions[id_.number].id == id_

    def _stand_in(self, lost: Lost) -> None:
        """Takes outcomes for the entries that are lost; each of these is reported."""
        outcomes = self.repository.under(self.prefix + "outcome/")
        is_new = True
        while is_new:
            for id_, record in lost.stand():
                self._stand(Session(id_, implied(record), is_lost=True), "the outcome of its session")
                self._checked(f"{self.prefix}outcome/{id_}", self._read_outcome)
            copies = lost.copies()
            for id_, record in copies:
                self._stand(Session(id_, record, is_lost=True), "a copy of it")
            is_new = bool(copies)
        for id_ in lost.ended.values():
            self.repository.report(f"{self.prefix}log/{id_.number:016x}", "lost; its session ended with nothing")
        for id_ in lost.unresolved():
            self.repository.report(f"{self.prefix}log/{id_.number:016x}", "lost, and nothing stands for it: the admin must say what it was")
        for id_, record in lost.doubted().items():
            lists = Lists(record.public, id_.number)
            self.doubted[id_.number] = Session(id_, implied(record), record, lists=lists, is_lost=True)
        ended = {f"{self.prefix}outcome/{SessionId(number, hash_)}" for number, id_ in lost.ended.items() for hash_ in (id_.hash, UNKNOWN)}
        for key in (key for key in outcomes if not self._is_known(key) and key not in ended):
            self.repository.report(key, "an outcome of no session")

    def _stand(self, session: Session, what: str) -> None:
        """Takes in what stands for a lost entry."""
        self.repository.report(f"{self.prefix}log/{session.id.number:016x}", f"lost; {what} stands for it")
        self.sessions[session.id.number] = session
        self.sessions = dict(sorted(self.sessions.items()))
        self._revoke()

    def _checked(self, key: str, read: Callable[[str], None]) -> None:
        try:
            read(key)
        except Damaged as error:
            self.repository.report(key, str(error))

    def _read_log(self) -> None:
        before = 0
        for key in self.repository.under(self.prefix + "log/"):
            number = int(key.rpartition("/")[2], 16)
            if number != before + 1:
                self.repository.report(key, f"the log has no entries {before + 1} to {number - 1}")
            before = number
            record = self.repository.decode(key, "log")
            if record and (record["zone"], record.number("number")) == (self.name, number):
                is_old = record.signer.role == "admin" and not self.repository.admins.is_of_last(record.data)
                session = Session(SessionId(number, digest(record.data)), record, is_of_old_admin=is_old)
                try:
                    if session.kind == "gc":
                        Lists(record.public, number)
                    self.sessions[number] = session
                except (Damaged, Unsupported) as error:
                    self.repository.report(key, f"no proposal: {error}")
            elif record:
                self.repository.report(key, "an entry of another place")

    def _distrust_old_admins(self) -> None:
        """FORMAT.md §4.6: takes out what a replaced admin key signed where the next entry has read other bytes, unless that
        one is revoked, by an entry of which nobody says the like."""
        if any(session.is_of_old_admin for session in self.sessions.values()):
            lost = Lost(self)
            others = [number for number, session in self.sessions.items() if session.is_of_old_admin and lost.is_contradicted(session.id)]
            revokes = [session.entry for number, session in self.sessions.items() if session.kind == "revoke" and number not in others]
            signers = {number: self.sessions[number + 1].entry.signer for number in others}
            for number, signer in signers.items():
                if not any(_reaches(revoke, signer, number + 1) for revoke in revokes):
                    self.repository.report(f"{self.prefix}log/{number:016x}", "signed by an admin key that was replaced, and the next entry read another one")
                    del self.sessions[number]

    def _revoke(self) -> None:
        """Marks what a revoked key signed. Its packs stay readable: others' snapshots may need them."""
        for revoke in [session.entry for session in self.sessions.values() if session.kind == "revoke"]:
            for number, session in self.sessions.items():
                own = revoke.number("number")
                if _reaches(revoke, session.entry.signer, number):
                    session.void_by = min(own, session.void_by or own)

    def is_revoked(self, signer: Signer, number: int) -> bool:
        """Whether what a key signed at a number is not trusted."""
        return any(session.kind == "revoke" and _reaches(session.entry, signer, number) for session in self.sessions.values())

    def _valid(self, below: int = 1 << 64) -> Iterator[Session]:
        return (session for number, session in self.sessions.items() if number < below and not session.is_void())

    def _committed(self, below: int = 1 << 64) -> Iterator[Session]:
        """The snapshots by the entries below a number, revocations too."""
        return (session for number, session in self.sessions.items() if number < below and session.manifest and not session.is_void(below))

    def abandoned_below(self, below: int) -> dict[str, int]:
        """The collectors that the admin gave up, each with the number that says so, unless another one may have built on it."""
        abandoned: dict[str, int] = {}
        for record in [session for session in self._valid(below) if session.kind == "abandon"]:
            first, last = SessionId.parse(record.entry["session"]).number, record.id.number
            above = [session for session in self._valid(last) if session.id.number > first and (session.lists or session.unreadable) and session.kind == "gc"]
            if all(str(session.id) in abandoned for session in above):
                abandoned.setdefault(record.entry["session"], last)
        return abandoned

    def _read_outcome(self, key: str) -> None:
        id_ = SessionId.parse(key.rpartition("/")[2])
        session = self.sessions.get(id_.number)
        require(session is not None and session.id == id_, "an outcome of no session")
        assert session is not None
        session.unreadable = True
        given_up = any(other.entry["session"] == str(id_) for other in self._valid() if other.kind == "abandon")
        kinds = {"backup": ("manifest", "abort"), "gc": ("commit", "abort")}.get(session.kind, ())
        first = self.repository.read(key).partition(b"\n")[0].decode("ascii", "replace")
        kind = next((kind for kind in kinds if first.startswith(f"sancerre-{kind}-v")), None)
        if given_up and kind is None:
            return
        require(kind is not None, f"a {session.kind} does not end so")
        record = self.repository.decode(key, str(kind))
        if record:
            _check_outcome(self.name, session, record)
            lists = Lists(record.public, session.id.number) if kind == "commit" else None
            session.outcome, session.lists, session.unreadable = record, lists, False

    def _follow(self) -> None:
        """Believes commits as far as the log below each allows."""
        for number, session in sorted(self.sessions.items()):
            if str(session.id) in self.abandoned:
                standing = self._standing(number)
                self.forgotten |= {id_ for id_ in standing.forgotten if not standing.is_live(id_)}
            elif session.lists and not session.is_void():
                for frame, ordinal in session.lists.moves.items():
                    self.claimed.setdefault(frame, []).append((number, ordinal))
                if any(self._is_open(below, number) for below in self.sessions.values() if below.id.number < number):
                    self.repository.report(f"{self.prefix}outcome/{session.id}", "a commit above a session that had not ended")
                else:
                    self._believe(session, session.lists)

    def _is_open(self, session: Session, number: int) -> bool:
        """Whether what a session needs is not known to who asks at a number."""
        if session.kind not in ("backup", "gc") or session.outcome or session.is_void(number):
            return False
        if self.abandoned.get(str(session.id), number) < number:
            return False
        if session.unreadable:
            return session.kind == "gc" or self._is_live(str(session.id), number)
        named = [gc.id.number for gc in self._valid() if gc.lists and str(session.id) in gc.lists.forgotten]
        return all(self._is_live(str(session.id), gc) for gc in named)

    def _believe(self, gc: Session, lists: Lists) -> None:
        number = gc.id.number
        wrongly = [id_ for id_ in lists.forgotten if SessionId.parse(id_).number >= number or self._is_live(id_, number) or self._is_retained(id_, gc)]
        rightly = set(lists.forgotten) - set(wrongly)
        self.forgotten.update(rightly)
        self.given_up_by = {id_: number for id_ in rightly} | self.given_up_by
        remaining = [session for session in self._committed(number) if str(session.id) not in self.forgotten]
        dead = {(session, ordinal) for session, packs in lists.dead.items() for ordinal in packs}
        burnt = any(self._burns(session, dead, lists) for session in remaining)
        astray = any(self.moves.get(frame, frame[:2]) not in dead for frame in lists.moves)
        for problem in ["burns what a snapshot needs"] * burnt + ["moves what it does not burn"] * astray + ["gives up what is live"] * bool(wrongly):
            self.repository.report(f"{self.prefix}outcome/{gc.id}", f"a commit that {problem}")
        if burnt or astray:
            return
        self.moves.update({frame: (number, ordinal) for frame, ordinal in lists.moves.items()})
        self.dead.update(dead)
        self.burnt_by.update({pack: gc.id.number for pack in dead if pack not in self.burnt_by})

    def _is_live(self, id_: str, number: int) -> bool:
        """Whether a session is neither gone nor forgotten, or held all the same, by the entries below a number."""
        return id_ not in self.forgotten and self._standing(number).is_live(id_)

    def _is_retained(self, id_: str, gc: Session) -> bool:
        """Whether a snapshot must be kept for longer than the time of a commit."""
        session = self.sessions.get(SessionId.parse(id_).number)
        until = session.manifest["retain-until"] if session and session.manifest and str(session.id) == id_ else "-"
        return until != "-" and gc.outcome is not None and until > gc.outcome["time"]

    def _standing(self, number: int) -> Standing:
        standing = Standing(self.repository.config.number("approvals-needed"), self.forgotten)
        for session in (session for at, session in self.sessions.items() if at < number):
            # Whose a backup is it says, whatever a revocation said of it since.
            if session.kind == "backup" or not session.is_void():
                standing.apply(session)
        return standing

    def _burns(self, snapshot: Session, dead: set[tuple[int, int]], lists: Lists) -> bool:
        uses = FrameSet(snapshot.outcome.public if snapshot.outcome else b"", snapshot.id.number)
        whole = {(number, ordinal) for number, packs in uses.sessions.items() for ordinal, ranges in packs.items() if ranges is None}
        lies_in = (frame not in lists.moves and self.moves.get(frame, frame[:2]) in dead for frame in uses.frames())
        return bool(whole & dead) or any(lies_in)

    def _published(self, key: str, kind: str) -> tuple[Session, Record]:
        """A list or segment: of the session that its key names, signed by the signer of that session."""
        *_, name, sequence = key.split("/")
        id_ = SessionId.parse(name)
        session = self.storing(id_.number)
        require(session is not None and session.id == id_, "of no session")
        assert session is not None
        record = self.repository.decode(key, kind)
        require(record is not None, "not used")
        assert record is not None
        place = self.name, str(session.id), int(sequence, 16)
        require((record["zone"], record["session"], record.number("sequence")) == place, "of another place")
        anew = kind == "list" and record.signer.role == "admin"
        require(anew or record.signer == session.entry.signer, "signed by another than its session")
        return session, record

    def _read_list(self, key: str) -> None:
        session, record = self._published(key, "list")
        # The admin's stands for one that is lost; keys come in order, so the session's own were read before.
        anew = record.signer != session.entry.signer
        counted = anew or session.manifest is None or session.is_void() or record.number("sequence") < session.manifest.number("lists")
        require(counted, "the manifest does not count this list")
        packs = [line.split(" ") for line in record.values["pack"]]
        ordinals = [int(pack[0]) for pack in packs]
        require(ordinals == sorted(set(ordinals)), "packs out of order")
        # The words of later versions that may follow are skipped.
        for ordinal, (_, kind, size, blake3, sha256, tail, frames, *_) in zip(ordinals, packs):
            name = f"{self.prefix}packs/{session.id.number:016x}/{ordinal:08x}-{blake3}"
            session.packs.setdefault(ordinal, Listed(name, kind, int(size), sha256, tail, int(frames)))

    def _read_segment(self, key: str) -> None:
        session, record = self._published(key, "index")
        covers = [tuple(map(int, pair.split("/"))) for pair in record.values["covers"]]
        require(covers == sorted(set(covers)), "covered segments out of order")
        session.segments.append(record)

    def _find_gaps(self) -> None:
        """Reports lists that a manifest counts and are not there, and packs that no list names."""
        for session in self.snapshots():
            for sequence in range(session.manifest.number("lists") if session.manifest else 0):
                key = f"{self.prefix}lists/{session.id}/{sequence:08x}"
                if key not in self.repository.keys:
                    self.repository.report(key, "missing")
        for key in (key for keys in self._unlisted.values() for key in keys):
            self.repository.report(key, "no list names this pack")


def _reaches(revoke: Record, signer: Signer, number: int) -> bool:
    from_ = revoke.number("number") if signer.role == "keeper" else revoke.number("from")
    return signer.name == revoke["writer"] and number >= from_


def _check_outcome(zone: str, session: Session, record: Record) -> None:
    require((record["zone"], record["session"]) == (zone, str(session.id)), "an outcome of another session")
    own = record.kind == "manifest" or (record.kind == "commit" and record.signer.role != "admin")
    if own or record.signer.role == "writer":
        require(record.signer == session.entry.signer, "signed by another than its session")
    if record.kind == "manifest":
        names = "vm", "machine"
        require(all(record[name] == session.entry[name] for name in names), "a manifest of another VM than announced")
        require(record.values["parent"] == session.entry.values["parent"], "other parents than announced")
        FrameSet(record.public, session.id.number)
