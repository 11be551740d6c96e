"""Verifies packs, index and snapshots, and goes on after what is wrong. The records were verified when they were read."""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from typing import Callable, Iterator

from checkpoints import check
from content import Content, Places, generations, opened
from framesets import FrameSet
from history import Session, Zone
from keyring import Keyring
from packs import ANNEX, Pack
from primitives import Damaged, FrameName, require


def verify(zones: list[Zone], keyring: Keyring | None) -> str:
    """Checks everything that can be checked without, or with, secrets; says what was there."""
    snapshots = packs = chunks = traced = checkpoints = 0
    for zone in zones:
        checked = _Verification(zone, keyring)
        packs += sum(map(checked.packs, zone.sessions.values()))
        chunks += sum(map(checked.snapshot, zone.snapshots()))
        traced += checked.traced
        snapshots += len(zone.snapshots())
        checkpoints += check(zone)
    opened = f"{chunks} chunks in maps, {traced} in boot traces" if keyring else "nothing opened"
    return f"{snapshots} snapshots, {packs} packs, {checkpoints} checkpoints, {opened}:"


class _Verification:
    def __init__(self, zone: Zone, keyring: Keyring | None) -> None:
        self.zone, self.keyring, self.places = zone, keyring, Places()
        self.frames: set[FrameName] = set()
        self.traced = 0
        self.content: Callable[[int], Content] | None = None
        if keyring:
            self.content = lru_cache(None)(lambda generation: Content(zone, generation, keyring))

    def packs(self, session: Session) -> int:
        """Checks the listed packs of a session, and its index."""
        for ordinal, listed in session.packs.items():
            if (session.id.number, ordinal) in self.zone.dead and listed.key not in self.zone.repository.keys:
                continue
            with self._reporting(listed.key):
                pack = self.zone.read_pack(session.id.number, ordinal)
                for frame in pack.frames:
                    pack.sealed(frame)
                if self.content and pack.kind != ANNEX:
                    self.places.update(self._opened(session, pack))
                    self.frames.update(frame.name for frame in pack.frames)
        if self.content and session.kind == "note" and session.entry["topic"] in ("catalogue", "boot-trace"):
            with self._reporting(f"{self.zone.prefix}log/{session.id.number:016x}"):
                self._owned(session)
        for segment in session.segments if self.content else []:
            key = f"{self.zone.prefix}index/{session.id}/{segment.number('sequence'):08x}"
            with self._reporting(key):
                assert self.content is not None
                self.content(segment.number("generation")).check_segment(session, segment)
        return len(session.packs)

    def snapshot(self, snapshot: Session) -> int:
        """Checks that all that a snapshot needs is where its public part and its maps say; how many chunks it has."""
        assert snapshot.manifest is not None
        needed, count = FrameSet(snapshot.manifest.public, snapshot.id.number), 0
        key = f"{self.zone.prefix}outcome/{snapshot.id}"
        with self._reporting(key):
            content = opened(self.zone, snapshot, self.keyring) if self.keyring else None
            if content is None:
                self._packs_are_there(needed)
            disks = content.disks(snapshot) if content else []
            for disk in disks:
                assert content is not None
                chunks, data = 0, 0
                for chunk in content.chunks(disk, needed):
                    found = self.places.get((chunk.place.frame, chunk.place.offset))
                    if found is None and chunk.place.frame not in self.frames:
                        # Nothing of its pack was read; copies may be there.
                        content.chunk(chunk)
                    elif found != (chunk.id, chunk.place.size):
                        raise Damaged(f"disk {disk.name}: the chunk at {chunk.position} is not where the map says")
                    chunks, data = chunks + 1, data + chunk.place.size
                if (chunks, data) != (disk.chunks, disk.data):
                    raise Damaged(f"disk {disk.name} has {chunks} chunks of {data} bytes, not {disk.chunks} of {disk.data}")
                count += chunks
            for disk in disks:
                if content and disk.role == "catalogue":
                    content.catalogue(disk, disks, needed)
            if content:
                content.check_annexes(snapshot, disks, needed)
        return count

    def _packs_are_there(self, needed: FrameSet) -> None:
        for frame in needed.frames():
            require(any(self.zone.packs_of(frame)), f"no pack holds frame {frame}")

    def _opened(self, session: Session, pack: Pack) -> Places:
        """What lies in a pack, by the first generation that opens it: that of a lost entry is not known."""
        assert self.content is not None
        *others, last = generations(self.zone, session)
        for generation in others:
            try:
                return self.content(generation).check_pack(pack)
            except Damaged:
                continue
        return self.content(last).check_pack(pack)

    def _owned(self, note: Session) -> None:
        """The catalogue or boot trace of a note, unless its packs went with its snapshot."""
        if not note.packs or not all(listed.key in self.zone.repository.keys for listed in note.packs.values()):
            return
        *others, last = generations(self.zone, note)
        for generation in others:
            try:
                self._read_owned(note, generation)
                return
            except Damaged:
                continue
        self._read_owned(note, last)

    def _read_owned(self, note: Session, generation: int) -> None:
        assert self.content is not None
        if note.entry["topic"] == "catalogue":
            self.content(generation).made_later(note)
        else:
            self.traced += self.content(generation).boot_trace(note)

    @contextmanager
    def _reporting(self, key: str) -> Iterator[None]:
        try:
            yield
        except Damaged as error:
            self.zone.repository.report(key, str(error))
