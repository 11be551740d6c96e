"""FORMAT.md §5.1 and §5.2: what belongs to a snapshot besides its disks. Nobody needs it to restore."""

from __future__ import annotations

import re
from typing import Callable

from maps import PLACE, Disk, Place
from primitives import MIB, Cursor, Damaged, FrameName, keyed, require
from shapes import NAME, NUMBER
from titles import title

EXTENT, SPAN = 4 * MIB, 1024 * MIB
BLOCK = 4096
COUNTS = 13
# Those that are 0 of an extent of which nothing is stored: what changed and what became of files.
_LOUD = [1, 2, 3, 4, 7, 8, 9, 10, 12]
_ANNEX = re.compile(rf"x-annex: ({NAME}) {PLACE}")
_SEEN = re.compile(rf"(?:{NUMBER})(?:,(?:{NUMBER}))*")


def annexes(body: bytes) -> list[tuple[str, Place]]:
    """Topics and places. A line that does not read as one is ignored, as every `x-` line may be."""
    found = [_ANNEX.fullmatch(line) for line in body.decode("ascii").split("\n")]
    lines = [(line[1], [int(number) for number in line.groups()[1:]]) for line in found if line]
    return [(topic, Place(FrameName(*numbers[:3]), *numbers[3:])) for topic, numbers in lines]


def check_statistics(read: Callable[[Place], bytes], id_key: bytes, places: list[Place], disks: list[Disk]) -> None:
    """Reads all pieces of a snapshot's statistics: they are what their tables name, and add up to what the disks say."""
    key, sums = keyed(id_key, b"sancerre v1 statistics"), {}
    for place in places:
        _table(Cursor(read(place)), read, key, disks, sums)
    for disk in disks:
        seen = disk.extensions.get("x-seen", "")
        if disk.name in sums and _SEEN.fullmatch(seen):
            numbers = [int(number) for number in seen.split(",")]
            require(all(numbers[at] == sums[disk.name][at] for at in _LOUD), f"the extents of {disk.name} add up to something else")


def _table(table: Cursor, read: Callable[[Place], bytes], key: bytes, disks: list[Disk], sums: dict[str, list[int]]) -> None:
    require(table.take(8) == b"SNCSTAT1", "statistics that begin otherwise")
    for _ in range(table.number("I")):
        name, size = _name(table.take(table.number("I"))), table.number("Q")
        require(any(disk.name == name and disk.size == size for disk in disks), "statistics of another disk")
        sums.setdefault(name, [0] * COUNTS)
        last = -1
        for _ in range(table.number("I")):
            span, flags = table.fields("QB")
            require(last < span < -(-size // SPAN) and 1 <= flags <= 3, "pieces out of order, or of no known kind")
            last = span
            if flags & 1:
                _starts(_piece(table, read, key))
            if flags & 2:
                _counts(_piece(table, read, key), sums[name])
    table.end()


def _name(encoded: bytes) -> str:
    try:
        return title(encoded.decode("ascii"))
    except UnicodeDecodeError as error:
        raise Damaged("a name is no text") from error


def _piece(table: Cursor, read: Callable[[Place], bytes], key: bytes) -> Cursor:
    id_, number, ordinal, index, _offset, _sealed, offset, size = table.fields("32sQIIIIII")
    piece = read(Place(FrameName(number, ordinal, index), offset, size))
    require(keyed(key, piece) == id_, "a piece of the statistics is not what their table names")
    return Cursor(piece)


def _starts(piece: Cursor) -> None:
    block = 0
    while piece.at < len(piece.data):
        block += (_number(piece) >> 1) + 1
        require(block <= SPAN // BLOCK, "a file starts outside of its piece")


def _counts(piece: Cursor, sums: list[int]) -> None:
    extent = 0
    while piece.at < len(piece.data):
        extent += _number(piece) + 1
        require(extent <= SPAN // EXTENT, "an extent lies outside of its piece")
        for at in range(COUNTS):
            sums[at] += _number(piece)


def _number(piece: Cursor) -> int:
    """Seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = piece.number("B")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            require(value < 1 << 64 and (byte > 0 or shift == 0), "a number is longer than it must be, or too large")
            return value
        shift += 7
