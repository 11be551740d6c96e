"""FORMAT.md §5.3: which files are on the disks of a snapshot, by its writer's word."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterator

from primitives import Cursor, Damaged, require

PIECE_BYTES = 65536
HEAD, VOLUME, NAMES, FILLER, END = 1, 2, 3, 4, 5
HOLE, HERE, HELD, THERE = 0, 1, 2, 3


@dataclass(frozen=True)
class File:
    folder: bytes
    name: bytes
    kind: int
    number: int
    size: int
    mode: int | None
    owner: tuple[int, int] | None
    time: tuple[int, int] | None
    # (length, disk and offset; None for a hole, "held" for what lies in a structure)
    places: list[tuple[int, object]] | None


@dataclass
class Catalogue:
    disks: list[str] = field(default_factory=list)
    volumes: list[tuple[str, str, str, bytes, int]] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    pieces: int = 0


def read_catalogue(data: bytes, region_bytes: int) -> Catalogue:
    found, kinds = Catalogue(), []
    for start, kind, content in _pieces(data):
        size = -(-(8 + len(content.data)) // 16) * 16
        require(start // region_bytes == (start + size - 1) // region_bytes, "a piece crosses the border of a region")
        require((kind == HEAD) == (not kinds) and END not in kinds, "a head that is not first, or something behind the end")
        kinds.append(kind)
        if kind == HEAD:
            require(content.take(8) == b"SNCFILE1", "a catalogue that begins otherwise")
            found.disks = [_utf8(content) for _ in range(number(content))]
        elif kind == VOLUME:
            disk, name, what = _utf8(content), _utf8(content), _utf8(content)
            found.volumes.append((disk, name, what, _text(content), content.number("B")))
            require(found.volumes[-1][4] < 4, "unknown words of a volume")
        elif kind == NAMES:
            require(bool(found.volumes) and found.volumes[-1][4] & 2 != 0, "names of no volume")
            found.files.extend(_folders(content))
        elif kind == END:
            found.faults = [_utf8(content) for _ in range(number(content))]
        if kind in (HEAD, VOLUME, NAMES, END):
            content.end()
    require(kinds[-1:] == [END], "a catalogue without an end")
    found.pieces = len(kinds)
    return found


def _pieces(data: bytes) -> Iterator[tuple[int, int, Cursor]]:
    at = 0
    while at + 8 <= len(data) and data[at : at + 8] != bytes(8):
        size, kind = int.from_bytes(data[at : at + 4], "little"), data[at + 4]
        whole = -(-(8 + size) // 16) * 16
        require(kind != 0 and data[at + 5 : at + 8] == bytes(3), "a piece of no kind")
        require(whole <= PIECE_BYTES and at + whole <= len(data), "a piece that is too large")
        require(not any(data[at + 8 + size : at + whole]), "a piece that is filled with something")
        yield at, kind, Cursor(data[at + 8 : at + 8 + size])
        at += whole
    require(not any(data[at:]), "something behind the end")


def _folders(content: Cursor) -> Iterator[File]:
    before: bytes | None = None
    while content.at < len(content.data):
        path = _joined(content, before or b"")
        require(before is None or _order(before) < _order(path), "folders out of order")
        before = path
        require(content.number("B") < 2, "unknown words of a folder")
        folder, count = number(content), number(content)
        yield from _files(content, path, folder, count)


def _files(content: Cursor, path: bytes, folder: int, count: int) -> Iterator[File]:
    name, id_, second, rights = b"", folder, 0, None
    disk, sector = 0, 0
    for position in range(count):
        last, name = name, _joined(content, name)
        require(last < name and b"/" not in name, "names out of order")
        flags = content.number("B")
        id_, size = _step(content, id_), number(content)
        if flags & 0x40:
            require(position > 0 and not flags & 0x18, "rights that are said twice")
        else:
            mode = number(content) if flags & 8 else None
            rights = mode, (number(content), number(content)) if flags & 0x10 else None
        assert rights is not None
        time = None
        if flags & 0x20:
            second = _step(content, second)
            time = (second - (1 << 64) if second >> 63 else second, number(content))
            require(time[1] < 10**9, "too many nanoseconds")
        places = None
        if flags & 0x80:
            places, disk, sector = _places(content, size, disk, sector)
        require(flags & 7 <= 4, "a file of no known kind")
        yield File(path, name, flags & 7, id_, size, *rights, time, places)


def _places(content: Cursor, size: int, disk: int, sector: int) -> tuple[list[tuple[int, object]], int, int]:
    count, left = number(content), size
    require(count <= 256 and (count == 0) == (size == 0), "a wrong number of places")
    places: list[tuple[int, object]] = []
    for position in range(count):
        word = number(content)
        is_last = position == count - 1
        length = left if is_last else word >> 2
        require((word >> 2 == 0) == is_last and 0 < length <= left and (is_last or length < left), "a place of a wrong length")
        left -= length
        if word & 3 in (HOLE, HELD):
            places.append((length, None if word & 3 == HOLE else "held"))
            continue
        disk = number(content) if word & 3 == THERE else disk
        start = _step(content, sector)
        places.append((length, (disk, start * 512)))
        sector = (start + -(-length // 512)) % (1 << 64)
    return places, disk, sector


def _order(path: bytes) -> list[bytes]:
    return path.split(b"/") if path else []


def _joined(content: Cursor, before: bytes) -> bytes:
    shared, rest = number(content), _text(content)
    require(shared <= len(before), "a name that begins as one that is shorter")
    require(not rest or before[shared : shared + 1] != rest[:1], "a name that shares more than it says")
    return before[:shared] + rest


def _text(content: Cursor) -> bytes:
    return content.take(number(content))


def _utf8(content: Cursor) -> str:
    try:
        return _text(content).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damaged("a text that is none") from error


def _step(content: Cursor, start: int) -> int:
    step = number(content)
    return (start + (-(step + 1) // 2 if step & 1 else step // 2)) % (1 << 64)


def number(content: Cursor) -> int:
    """Seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = content.number("B")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            require(value < 1 << 64 and (byte > 0 or shift == 0), "a number is longer than it must be, or too large")
            return value
        shift += 7
