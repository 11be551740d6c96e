"""FORMAT.md §9.4: a checkpoint says what the log below it says, and nothing else."""

from __future__ import annotations

import re

from framesets import FrameSet, known_lines, parse_sets
from history import Zone
from primitives import MIB, Damaged, FrameName, SessionId, decompress, digest, require
from records import ARMOR, Record
from shapes import HASH, NUMBER, SESSION

_CARRIED = re.compile(rf"(?P<id>{SESSION})(?: (?P<hash>{HASH}))? (?P<cut>whole|sealed|head) (?P<size>{NUMBER})")


def check(zone: Zone) -> int:
    """Compares every checkpoint with the log; how many there are."""
    keys = zone.repository.under(zone.prefix + "checkpoints/")
    for key in keys:
        record = zone.repository.decode(key, "checkpoint")
        try:
            if record:
                require((record["zone"], record.number("upto")) == (zone.name, int(key.rpartition("/")[2], 16)), "of another place")
                _State(zone, record).compare()
        except Damaged as error:
            zone.repository.report(key, str(error))
    return len(keys)


class _State:
    """What a checkpoint carries."""

    def __init__(self, zone: Zone, record: Record) -> None:
        self.zone, self.upto, self.previous = zone, record.number("upto"), record["previous"]
        size = int.from_bytes(record.public[:4], "little")
        text = decompress(record.public[4 : 4 + size], 64 * MIB)
        records = decompress(record.public[4 + size :], 256 * MIB)
        known = known_lines(text, "sancerre-state-v1")
        while known and known[-1].startswith("x-"):
            known.pop()
        pairs = [line.partition(": ")[::2] for line in known]
        order = ["kept", "move", "head", "entry", "outcome"]
        kinds = [order.index(kind) if kind in order else -1 for kind, _ in pairs]
        require(-1 not in kinds and kinds == sorted(kinds), "lines in a wrong order, or unknown ones")
        lines = {kind: [value for name, value in pairs if name == kind] for kind in order}
        self.kept = {(number, ordinal) for number, packs in parse_sets(lines["kept"]).items() for ordinal in packs}
        require(all(ranges is None for packs in parse_sets(lines["kept"]).values() for ranges in packs.values()), "single frames are kept")
        self.moves = self._moves(lines["move"])
        self.entries, self.outcomes = set(), set()
        for kind, into in (("entry", self.entries), ("outcome", self.outcomes)):
            for line in lines[kind]:
                records = self._carried(kind, line, records, into)
        require(not records, "records too many")
        require(set(lines["head"]) <= self.entries and lines["head"] == sorted(set(lines["head"])), "heads out of order, or without entries")

    def _moves(self, lines: list[str]) -> dict[FrameName, tuple[int, int]]:
        by_pack: dict[tuple[int, int], list[str]] = {}
        for line in lines:
            number, ordinal, frames = line.split(" ", 2)
            by_pack.setdefault((int(number), int(ordinal)), []).append(frames)
        spelled = [f"{number} {ordinal} {line}" for (number, ordinal), packs in sorted(by_pack.items()) for line in packs]
        require(spelled == lines and set(by_pack) <= self.kept, "moves out of order, or into a pack that is not kept")
        moves = {}
        for to, frame_lines in by_pack.items():
            for number, packs in parse_sets(frame_lines).items():
                for ordinal, ranges in packs.items():
                    require(ranges is not None, "a whole pack is moved")
                    for first, last in ranges or []:
                        moves.update({FrameName(number, ordinal, at): to for at in range(first, last + 1)})
        return moves

    def _carried(self, kind: str, line: str, records: bytes, into: set[str]) -> bytes:
        """Compares a record with the object that it was cut from."""
        found = _CARRIED.fullmatch(line)
        require(found is not None and (found["hash"] is not None) == (kind == "outcome"), f"a malformed {kind}")
        assert found is not None
        id_, size = SessionId.parse(found["id"]), int(found["size"])
        require(id_.number < self.upto, "it carries what it does not speak of")
        key = f"{self.zone.prefix}log/{id_.number:016x}" if kind == "entry" else f"{self.zone.prefix}outcome/{id_}"
        whole = self.zone.repository.read(key)
        expected = found["hash"] or id_.hash.hex()
        require(digest(whole).hex() == expected, f"{key} is another object")
        head = whole.find(b"\n" + ARMOR[1]) + 1 + len(ARMOR[1])
        public = int(next(line for line in whole[:head].split(b"\n") if line.startswith(b"public: ")).split(b" ")[1])
        cut = {"whole": whole, "sealed": whole[:head] + whole[head + public :], "head": whole[:head]}[found["cut"]]
        require(records[:size] == cut, f"{key} was cut otherwise")
        into.add(str(id_))
        return records[size:]

    def compare(self) -> None:
        """What a reader who starts here must find, by the whole log."""
        zone = self.zone
        below = zone.sessions.get(self.upto - 1)
        require(below is not None and below.id.hash.hex() == self.previous, "it follows on another log entry")
        gone = {id_ for id_, number in zone.given_up_by.items() if number < self.upto}
        require(not self.outcomes & gone, "it carries a manifest that a commit gave up")
        for snapshot in zone.snapshots():
            if snapshot.id.number < self.upto:
                require(str(snapshot.id) in self.entries & self.outcomes, f"it leaves out snapshot {snapshot.id}")
                assert snapshot.manifest is not None
                for frame in FrameSet(snapshot.manifest.public, snapshot.id.number).frames():
                    lies, here = zone.moves.get(frame, frame[:2]), self.moves.get(frame, frame[:2])
                    require(lies == here or lies[0] >= self.upto, f"it says that frame {frame} lies elsewhere")
        require(not self.kept & {pack for pack in zone.dead if zone.burnt_by[pack] < self.upto}, "it keeps what a commit gave up")
        for number in {number for number, _ in self.kept}:
            require(str(zone.sessions[number].id) in self.entries, f"it leaves out entry {number}")
