"""What needs secrets: frames, maps, whole disks."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import BinaryIO, Callable, Iterator, TypeVar

import seals
from annexes import annexes, check_statistics
from catalogues import Catalogue, read_catalogue
from framesets import FrameSet
from history import Session, Zone
from keyring import Keyring, ZoneKeys
from maps import Child, Disk, Place, parse_body, parse_node
from packs import ANNEX, DATA, Frame, Pack, parse_table
from primitives import MIB, Damaged, FrameName, SessionId, kdf, keyed, require
from records import Record
from segments import Entry, check_segment
from traces import read_trace

T = TypeVar("T")

# What starts at an offset in the raw text of a frame: its id and size.
Places = dict[tuple[FrameName, int], tuple[bytes, int]]


def generations(zone: Zone, session: Session) -> list[int]:
    """The generation that a session belongs to; those of the zone, the newest first, where nothing says which it is."""
    if not session.is_lost and session.kind in ("backup", "gc"):
        return [session.entry.number("generation")]
    records = zone.repository.zone_secrets.values()
    known = sorted((record.number("generation") for record in records if record["zone"] == zone.name), reverse=True)
    require(bool(known), f"the zone {zone.name} has no secrets")
    return known


def opened(zone: Zone, snapshot: Session, keyring: Keyring) -> Content:
    """The generation that opens the body of a snapshot."""
    *others, last = generations(zone, snapshot)
    for generation in others:
        try:
            content = Content(zone, generation, keyring)
            content.disks(snapshot)
            return content
        except Damaged:
            continue
    return Content(zone, last, keyring)


class Content:
    """One generation of a zone, opened."""

    def __init__(self, zone: Zone, generation: int, keyring: Keyring) -> None:
        self.zone, self.generation, self.keyring = zone, generation, keyring
        self.keys: ZoneKeys = keyring.zone(zone.name, generation)
        self.leaf_bytes = zone.repository.config.number("leaf-bytes")
        self.session_key = lru_cache(256)(lambda number: keyring.session_key(zone.sessions[number]))
        self.read_pack = lru_cache(4)(lambda number, ordinal: zone.read_pack(number, ordinal, is_whole=False))
        self.frame = lru_cache(64)(self._frame)
        # Frames that are lost or damaged, each with the pack.
        self.lost: dict[tuple[FrameName, int, int], Damaged] = {}
        # Those for which copies stand.
        self.healed: set[FrameName] = set()

    def disks(self, snapshot: Session) -> list[Disk]:
        """The disks of a snapshot, which must add up to what its public part says."""
        manifest = snapshot.manifest
        assert manifest is not None
        disks = parse_body(self._body(snapshot))
        require(len(disks) == manifest.number("disks"), "another number of disks than announced")
        require(sum(disk.size for disk in disks) == manifest.number("size-bytes"), "other sizes than announced")
        data = sum(disk.data for disk in disks)
        require(-(-data // MIB) * MIB == manifest.number("data-bytes"), "other data than announced")
        return disks

    def check_annexes(self, snapshot: Session, disks: list[Disk], needed: FrameSet) -> None:
        """Reads the statistics of a snapshot; what other annexes say this reader does not know."""

        def read(place: Place) -> bytes:
            require(place.frame in needed, f"the manifest does not name frame {place.frame}")
            return self._read(place, lambda data: data)

        places = [place for topic, place in annexes(self._body(snapshot)) if topic in ("statistics", "counts")]
        check_statistics(read, self.keys.id_key, places, disks)

    def catalogue(self, disk: Disk, disks: list[Disk], needed: FrameSet) -> Catalogue:
        """The file catalogue of a snapshot: its pieces are its chunks, and it names the disks beside it."""
        data, chunks = bytearray(disk.size), 0
        for chunk in self.chunks(disk, needed):
            data[chunk.position : chunk.position + chunk.place.size] = self.chunk(chunk)
            chunks += 1
        found = read_catalogue(bytes(data), self.zone.repository.config.number("region-bytes"))
        require(found.pieces == chunks, "pieces of a catalogue that are no chunks")
        require(set(found.disks) <= {disk.name for disk in disks}, "a catalogue of another disk")
        return found

    def made_later(self, note: Session) -> Catalogue:
        """A catalogue that was made after the backup: what its annex holds opens under a key of its own."""
        key = self.keyring.session_key_of(note.entry.public)
        data = b"".join(seals.open_unit(inner, key, seals.DATA, *place) for inner, place in self._annex(note))
        return read_catalogue(data, self.zone.repository.config.number("region-bytes"))

    def boot_trace(self, note: Session) -> int:
        """How many chunks the trace of a note names."""
        units = [unit for unit, _ in self._annex(note)]
        require(len(units) == 1, "a boot trace of several frames")
        return len(read_trace(units[0]) or [])

    def _annex(self, note: Session) -> Iterator[tuple[bytes, tuple[SessionId, int, int]]]:
        """What is in the units of a note's packs, and the names of these."""
        for ordinal in sorted(note.packs):
            pack = self.zone.read_pack(note.id.number, ordinal)
            for frame in pack.frames:
                place = frame.session, frame.name.ordinal, frame.name.position
                yield seals.open_unit(pack.sealed(frame), self._root(frame.session), seals.ANNEX, *place), place

    def chunks(self, disk: Disk, needed: FrameSet) -> Iterator[Child]:
        """The chunks of a disk by their offsets in it."""
        if disk.root is None:
            return
        level = next(level for level in range(9) if self.leaf_bytes << 8 * level >= disk.size)
        require(disk.level == level, "the root of the map has a wrong level")
        yield from self._walk(disk, disk.root, level, needed)

    def restore(self, disk: Disk, needed: FrameSet, target: BinaryIO) -> None:
        """Writes a disk to an empty file; holes stay holes."""
        target.truncate(disk.size)
        for chunk in self.chunks(disk, needed):
            data = self.chunk(chunk)
            target.seek(chunk.position)
            target.write(data)

    def chunk(self, chunk: Child) -> bytes:
        """The bytes of a chunk, wherever they are what its id says."""

        def proven(data: bytes) -> bytes:
            require(keyed(self.keys.id_key, data) == chunk.id, f"the chunk at {chunk.position} is another than the map says")
            return data

        return self._find(chunk, proven)[0]

    def check_pack(self, pack: Pack) -> Places:
        """Opens all of a pack; what lies where in it."""
        raw = seals.open_unit(pack.table, self._root(pack.session), seals.TABLE, pack.session, pack.ordinal)
        found: Places = {}
        for frame, entries in zip(pack.frames, parse_table(raw, len(pack.frames))):
            text, at = self._open(pack, frame), 0
            for id_, size in entries:
                require(self._id(pack, text[at : at + size]) == id_, f"frame {frame.name} holds another text than its table says")
                found[frame.name, at] = id_, size
                at += size
            require(at == len(text), f"frame {frame.name} holds more than its table says")
        return found

    def check_segment(self, session: Session, segment: Record) -> list[Entry]:
        """Opens every page of an index segment; what it says."""
        return check_segment(segment, self._root(session.id), session.id, session.kind)

    @cached_property
    def _copies(self) -> dict[bytes, list[Place]]:
        """Where chunks and nodes lie by all segments that open, covered ones too, the newest first."""
        found: dict[bytes, list[Place]] = {}
        for _, session in sorted(self.zone.sessions.items(), reverse=True):
            for segment in sorted(session.segments, key=lambda segment: segment.number("sequence"), reverse=True):
                try:
                    entries = self.check_segment(session, segment) if segment.number("generation") == self.generation else []
                except Damaged:
                    continue
                for id_, place in entries:
                    found.setdefault(id_, []).append(place)
        return found

    def _find(self, child: Child, read: Callable[[bytes], T]) -> tuple[T, bool]:
        """What `read` makes of the bytes at a place, or of a copy that the index knows, and whether it was one. What its id
        does not fit `read` refuses."""
        try:
            return self._read(child.place, read), False
        except Damaged as error:
            for copy in self._copies.get(child.id, []):
                try:
                    found = self._read(copy, read)
                except Damaged:
                    continue
                if child.place.frame not in self.healed:
                    self.healed.add(child.place.frame)
                    self.zone.repository.report(f"frame {child.place.frame}", f"{error}; what it held is taken from copies, the first from frame {copy.frame}")
                return found, True
            raise

    def _body(self, snapshot: Session) -> bytes:
        assert snapshot.manifest is not None
        return seals.open_unit(snapshot.manifest.sealed, self._root(snapshot.id), seals.BODY, snapshot.id, 0)

    def _root(self, session: SessionId) -> bytes:
        return seals.metadata_root(self.keys.metadata_key, session)

    def _id(self, pack: Pack, text: bytes) -> bytes:
        """The id of a chunk, or of a node, whose ids part comes first."""
        if pack.kind == DATA:
            return keyed(self.keys.id_key, text)
        entry = 36 if text[0] else 40
        ids = text[: 8 + entry * int.from_bytes(text[4:8], "little")]
        return keyed(kdf("sancerre v1 node id", self.keys.id_key), ids)

    def _walk(self, disk: Disk, node: Child, level: int, needed: FrameSet | None) -> Iterator[Child]:
        """The chunks below a node. A copy of a node says where its own session had things, which the manifest does not name."""
        require(needed is None or node.place.frame in needed, f"the manifest does not name frame {node.place.frame}")
        width = 1 if level == 0 else self.leaf_bytes << 8 * (level - 1)
        children, is_copy = self._find(node, lambda raw: parse_node(raw, self.keys.id_key, self.leaf_bytes, level, node.id))
        needed = None if is_copy else needed
        for child in children:
            placed = Child(node.position + child.position * width, child.id, child.place)
            require(placed.position < disk.size, "the map goes on after the disk's end")
            if level:
                yield from self._walk(disk, placed, level - 1, needed)
                continue
            require(placed.position + placed.place.size <= disk.size, "a chunk crosses the disk's end")
            require(needed is None or placed.place.frame in needed, f"the manifest does not name frame {placed.place.frame}")
            yield placed

    def _read(self, place: Place, read: Callable[[bytes], T]) -> T:
        """What `read` makes of the bytes at a place, in the first pack in which they are what it takes."""
        wrong = None
        for number, ordinal in self.zone.packs_of(place.frame):
            try:
                data = self.frame(place.frame, number, ordinal)[place.offset : place.offset + place.size]
                require(len(data) == place.size, f"frame {place.frame} is too short")
                return read(data)
            except Damaged as error:
                wrong = wrong or error
        raise wrong or Damaged(f"no pack holds frame {place.frame}")

    def _frame(self, name: FrameName, number: int, ordinal: int) -> bytes:
        if (name, number, ordinal) in self.lost:
            raise self.lost[name, number, ordinal]
        try:
            pack = self.read_pack(number, ordinal)
            frame = next((frame for frame in pack.frames if frame.name == name), None)
            require(frame is not None, "it is not in its pack")
            assert frame is not None
            return self._open(pack, frame)
        except Damaged as error:
            self.lost[name, number, ordinal] = Damaged(f"frame {name}: {error}")
            raise self.lost[name, number, ordinal] from error

    def _data_root(self, pack: Pack, frame: Frame) -> bytes:
        session = self.zone.sessions.get(frame.name.number)
        if session is not None and session.entry.sealed:
            return self.session_key(frame.name.number)
        return self.keyring.session_key_of(dict(pack.sessions)[frame.session])

    def _open(self, pack: Pack, frame: Frame) -> bytes:
        root = self._data_root(pack, frame) if pack.kind == DATA else self._root(frame.session)
        kind = seals.ANNEX if pack.kind == ANNEX else pack.kind
        return seals.open_unit(pack.sealed(frame), root, kind, frame.session, frame.name.ordinal, frame.name.position)
