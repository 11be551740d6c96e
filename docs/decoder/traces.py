"""FORMAT.md §5.4: which chunks a machine asked for until it was up, by the word of whoever started it."""

from __future__ import annotations

from typing import NamedTuple

from primitives import Cursor, Damaged, require
from titles import title

CHUNKS, DISKS = 65536, 256


class Asked(NamedTuple):
    disk: str
    leaf: int
    id: bytes


def read_trace(data: bytes) -> list[Asked] | None:
    """The chunks in their order; none of a trace of a later version."""
    trace = Cursor(data)
    require(trace.take(7) == b"SNCBOOT", "a boot trace that begins otherwise")
    if trace.take(1) != b"1":
        return None
    count = trace.number("I")
    require(count <= DISKS, "a boot trace of too many disks")
    disks = [_name(trace.take(trace.number("I"))) for _ in range(count)]
    count = trace.number("I")
    require(count <= CHUNKS, "a boot trace of too many chunks")
    asked = []
    for _ in range(count):
        disk, leaf, id_ = trace.fields("II32s")
        require(disk < len(disks), "a chunk on no disk")
        asked.append(Asked(disks[disk], leaf, id_))
    require(len({one.id for one in asked}) == count, "a chunk that is named twice")
    trace.end()
    return asked


def _name(encoded: bytes) -> str:
    try:
        return title(encoded.decode("ascii"))
    except UnicodeDecodeError as error:
        raise Damaged("a name is no text") from error
