"""FORMAT.md §9: sets of frames, and what a collector moved."""

from __future__ import annotations

import re
from typing import Iterator

from primitives import MIB, FrameName, Unsupported, decompress, require
from shapes import NUMBER, SESSION

Range = tuple[int, int]
# Of one session: by ordinal, the closed ranges of frame indexes, or nothing for a whole pack.
Packs = dict[int, "list[Range] | None"]

# Packs of which one set may name something.
PACKS_MAX = 1 << 20

_SPAN = rf"(?:{NUMBER})(?:-(?:{NUMBER}))?"
_ITEM = re.compile(rf"(?P<packs>{_SPAN})|(?P<pack>{NUMBER}):(?P<frames>{_SPAN}(?:,{_SPAN})*)")


class FrameSet:
    """Which frames of which sessions."""

    def __init__(self, part: bytes, session: int) -> None:
        lines = text_lines(part, "sancerre-frames-v1")
        require(all(line.startswith("frames: ") for line in lines), "a line that is no frames")
        self.sessions = parse_sets([line.removeprefix("frames: ") for line in lines])
        _bounded([self.sessions], session)

    def __contains__(self, frame: FrameName) -> bool:
        ranges = self.sessions.get(frame.number, {}).get(frame.ordinal, [])
        return ranges is None or any(first <= frame.position <= last for first, last in ranges)

    def frames(self) -> Iterator[FrameName]:
        """Every frame that the set names; of a whole pack the first."""
        for number, packs in self.sessions.items():
            for ordinal, ranges in packs.items():
                for first, last in [(0, 0)] if ranges is None else ranges:
                    yield from (FrameName(number, ordinal, position) for position in range(first, last + 1))


class Lists:
    """What a collector's proposal or commit lists."""

    ORDER = ["dead", "move", "seen", "forgotten"]

    def __init__(self, part: bytes, session: int) -> None:
        pairs = [line.partition(": ")[::2] for line in text_lines(part, "sancerre-gc-v1")]
        kinds = [self.ORDER.index(kind) if kind in self.ORDER else -1 for kind, _ in pairs]
        require(-1 not in kinds and kinds == sorted(kinds), "lists in a wrong order, or unknown ones")
        values = {kind: [value for name, value in pairs if name == kind] for kind in self.ORDER}
        self.dead = parse_sets(values["dead"])
        for packs in self.dead.values():
            require(all(ranges is None for ranges in packs.values()), "single frames where whole packs belong")
        _bounded([self.dead], session)
        self.moves = _moves(values["move"], session)
        for value in values["seen"] + values["forgotten"]:
            require(re.fullmatch(SESSION, value) is not None, "not a session")
        self.seen, self.forgotten = values["seen"], values["forgotten"]


def _bounded(sets: list[dict[int, Packs]], session: int) -> None:
    """What a record of this session may name."""
    require(sum(len(packs) for one in sets for packs in one.values()) <= PACKS_MAX, "too many packs")
    require(all(number <= session for one in sets for number in one), "a later session is named")


def _moves(lines: list[str], session: int) -> dict[FrameName, int]:
    """The pack of the collector's session in which each frame lies."""
    sets: dict[int, list[str]] = {}
    for line in lines:
        ordinal, _, frames = line.partition(" ")
        require(re.fullmatch(NUMBER, ordinal) is not None, "a malformed move")
        sets.setdefault(int(ordinal), []).append(frames)
    require([f"{ordinal} {frames}" for ordinal in sorted(sets) for frames in sets[ordinal]] == lines, "moves out of order")
    moves: dict[FrameName, int] = {}
    parsed = {ordinal: parse_sets(frame_lines) for ordinal, frame_lines in sets.items()}
    _bounded(list(parsed.values()), session)
    for ordinal, moved in parsed.items():
        for number, packs in moved.items():
            for pack, ranges in packs.items():
                require(ranges is not None, "a whole pack is moved")
                for position in (position for first, last in ranges or [] for position in range(first, last + 1)):
                    require(FrameName(number, pack, position) not in moves, "a frame is moved twice")
                    moves[FrameName(number, pack, position)] = ordinal
    return moves


def text_lines(part: bytes, first: str) -> list[str]:
    """The lines of a compressed text, after the features that it needs and without the ignorable ones at its end."""
    lines = known_lines(decompress(part, 64 * MIB), first)
    while lines and lines[-1].startswith("x-"):
        lines.pop()
    return lines


def plain_lines(text: bytes, first: str) -> list[str]:
    """The lines of a text, after its first."""
    require(text.endswith(b"\n") and all(0x20 <= b <= 0x7E or b == 0x0A for b in text), "not a text")
    lines = text.decode("ascii")[:-1].split("\n")
    require(lines[0] == first, f"not a {first}")
    require(max(map(len, lines)) <= 64 * 1024, "a line is too long")
    return lines[1:]


def known_lines(text: bytes, first: str) -> list[str]:
    """The same of a text that names features which a reader must know."""
    feature, *lines = plain_lines(text, first) or [""]
    require(feature.startswith("critical: "), "no critical features")
    if feature != "critical: -":
        raise Unsupported(f"features {feature[10:]}")
    return lines


def parse_sets(lines: list[str]) -> dict[int, Packs]:
    """`<n> <item> …` lines, in the one spelling that they have."""
    sessions: dict[int, Packs] = {}
    for line in lines:
        number, *items = line.split(" ")
        require(re.fullmatch(NUMBER, number) is not None and int(number) < 1 << 64, "a malformed session number")
        for item in items:
            _add(item, sessions.setdefault(int(number), {}))
    require(_spell_sets(sessions) == lines, "a frame set in another spelling")
    return sessions


def _add(item: str, packs: Packs) -> None:
    found = _ITEM.fullmatch(item)
    require(found is not None, "a malformed item")
    if found is None:
        return
    if found["packs"]:
        first, last = _range(found["packs"])
        require(first <= last < 1 << 32 and last - first < PACKS_MAX, "too many packs")
        for ordinal in range(first, last + 1):
            require(ordinal not in packs, "a pack is named twice")
            packs[ordinal] = None
    else:
        ranges = packs.setdefault(int(found["pack"]), [])
        require(ranges is not None, "a pack is named whole and in part")
        ranges.extend(map(_range, found["frames"].split(",")))  # type: ignore[union-attr]
        require(ranges[-1][1] < 65536, "a frame index that no pack has")  # type: ignore[index]


def _range(text: str) -> Range:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def _spell_sets(sessions: dict[int, Packs]) -> list[str]:
    lines = []
    for number, packs in sorted(sessions.items()):
        row = str(number)
        for item in _spell_items(packs):
            if len(row) - len(str(number)) - 1 >= 32768:
                lines.append(row)
                row = str(number)
            row += " " + item
        lines.append(row)
    return lines


def _spell_items(packs: Packs) -> list[str]:
    items = [(first, _spell(first, last)) for first, last in _maximal([(k, k) for k, ranges in packs.items() if ranges is None])]
    for ordinal, ranges in packs.items():
        spelled = [_spell(first, last) for first, last in _maximal(ranges or [])]
        for at in range(0, len(spelled), 1024):
            items.append((ordinal, f"{ordinal}:{','.join(spelled[at : at + 1024])}"))
    return [text for _, text in sorted(items, key=lambda item: item[0])]


def _spell(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _maximal(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for first, last in sorted(ranges):
        require(first <= last, "a range that ends before it starts")
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
