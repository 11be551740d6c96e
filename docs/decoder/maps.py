"""FORMAT.md §8.1 and §10.1: the body of a manifest, and the map of a disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from framesets import known_lines
from primitives import MIB, Cursor, FrameName, kdf, keyed, require
from shapes import HASH, NAME, NUMBER, TITLE
from titles import title

PLACE = rf"({NUMBER})/({NUMBER})/({NUMBER})@(?:{NUMBER})\+(?:{NUMBER}):({NUMBER})\+({NUMBER})"
_ROOT = re.compile(rf"([0-7])/({HASH})/{PLACE}")
_RANGE = rf"(?:{NUMBER})\+(?:{NUMBER})"
_DISK = re.compile(
    rf"({TITLE}) {NAME} {NAME} phase=(?:{NUMBER}) size=({NUMBER}) "
    rf"data=({NUMBER}) new=(?:{NUMBER}) chunks=({NUMBER}) new-chunks=(?:{NUMBER}) fuzzy=[01] root=(\S+)"
    r"(?: role=([!-~]+))?(?: serial=[!-~]+)?(?: bus=[!-~]+)?(?: lsize=[!-~]+)?(?: psize=[!-~]+)?"
    rf"(?: unreadable={_RANGE}(?:,{_RANGE})*)?((?: x-[!-~]+?=[!-~]+)*)"
)
_TAG = re.compile("tag: (?!-$)[A-Za-z0-9._:=@+/-]{1,128}")


class Place(NamedTuple):
    """Bytes in the raw text of a frame. Where the frame lies in its pack is a hint that this reader does not need."""

    frame: FrameName
    offset: int
    size: int


class Child(NamedTuple):
    """A chunk (of a leaf) or a node (of an inner node): where it starts, what it is, where it lies."""

    position: int
    id: bytes
    place: Place


@dataclass
class Disk:
    """One disk, stream or attachment of a snapshot."""

    name: str
    size: int
    data: int
    chunks: int
    level: int
    root: Child | None
    # Words that may be ignored.
    extensions: dict[str, str]
    # What a file is to the machine.
    role: str | None = None


def parse_body(text: bytes) -> list[Disk]:
    """The disks of a snapshot."""
    lines = [line for line in known_lines(text, "sancerre-body-v1") if not line.startswith("x-")]
    require(bool(lines) and lines[0].startswith("vm: "), "no line for the machine's name")
    named = lines.pop(0).removeprefix("vm: ")
    require(named == "-" or title(named) != "", "a malformed name")
    tags = [line for line in lines if _TAG.fullmatch(line)]
    require(lines[: len(tags)] == tags, "tags stand before disks")
    disks = [_disk(line) for line in lines[len(tags) :]]
    require(len({disk.name for disk in disks}) == len(disks), "two disks have one name")
    return disks


def _disk(line: str) -> Disk:
    found = _DISK.fullmatch(line.removeprefix("disk: "))
    require(found is not None and line.startswith("disk: "), "a malformed disk")
    assert found is not None
    size, data, chunks = (int(found[group]) for group in (2, 3, 4))
    pairs = [word.partition("=")[::2] for word in found[7].split()]
    extensions = dict(pairs)
    require(len(extensions) == len(pairs), "a word of a disk stands twice")
    if found[5] == "-":
        require(data == chunks == 0, "a disk with data and no map")
        return Disk(title(found[1]), size, data, chunks, 0, None, extensions, found[6])
    root = _ROOT.fullmatch(found[5])
    require(root is not None, "a malformed root")
    assert root is not None
    numbers = [int(number) for number in root.groups()[2:]]
    place = Place(FrameName(*numbers[:3]), *numbers[3:])
    return Disk(title(found[1]), size, data, chunks, int(root[1]), Child(0, bytes.fromhex(root[2]), place), extensions, found[6])


def parse_node(node: bytes, id_key: bytes, leaf_bytes: int, level: int, id_: bytes) -> list[Child]:
    """The children of a node, once its ids part is the one that was meant."""
    ids = Cursor(node)
    found, count = ids.fields("B3xI")
    require(found == level, "a node of another level than its parent says")
    require(1 <= count <= (256 if level else leaf_bytes // 512), "a node of no size")
    entries = [ids.fields("I32s") if level else ids.fields("II32s") for _ in range(count)]
    require(keyed(kdf("sancerre v1 node id", id_key), node[: ids.at]) == id_, "a node is not the one that was meant")
    places = Cursor(node[ids.at :])
    frames = _frames(places, count)
    children, used = [], set()
    for position, *size, child in entries:
        frame, offset, *bytes_ = places.fields("III" if level else "II")
        require(frame < len(frames), "a place in an unknown frame")
        place = Place(frames[frame], offset, (bytes_ or size)[0])
        require(place.size >= 1 and offset + place.size <= 16 * MIB, "a place outside of any frame")
        children.append(Child(position, child, place))
        used.add(frame)
    places.end()
    require(len(used) == len(frames), "a frame that no place uses")
    _ascending(children, leaf_bytes, level)
    return children


def _frames(places: Cursor, count: int) -> list[FrameName]:
    frames = []
    known = places.number("I")
    require(1 <= known <= count, "a node of no frames, or of too many")
    for _ in range(known):
        number, ordinal, index, _offset, _size = places.fields("QIIII")
        frames.append(FrameName(number, ordinal, index))
    require(frames == sorted(set(frames)), "frames out of order")
    return frames


def _ascending(children: list[Child], leaf_bytes: int, level: int) -> None:
    end = 0
    for child in children:
        require(end <= child.position < (256 if level else leaf_bytes), "children out of order")
        end = child.position + (1 if level else child.place.size)
