"""FORMAT.md §10.3: the filter of an index segment."""

from __future__ import annotations

from primitives import Cursor, require

GOLOMB = 1


def page_values(filter_: bytes, counts: list[int]) -> tuple[int, list[list[int]]]:
    """The last id's start, and for each page its values in ascending order; `counts` are the pages' entries."""
    cursor = Cursor(filter_)
    last = cursor.number("Q")
    pages = [_values(cursor.take(cursor.number("I")), count) for count in counts]
    cursor.end()
    return last, pages


def _values(code: bytes, count: int) -> list[int]:
    low, high = code[:count], code[count:]
    require(len(low) == count and high[-1:] > b"\0", "a filter's code ends too early or too late")
    bits = "".join(f"{byte:08b}"[::-1] for byte in high).rstrip("0")
    require(bits.count("1") == count, "a filter's code has too few or too many runs")
    values, at = [], 0
    for byte, run in zip(low, bits.split("1")):
        at += (len(run) << 8) + byte
        values.append(at)
    return values


def value(id_: bytes, count: int) -> int:
    """Where an id falls among the values of a page."""
    return int.from_bytes(id_[8:16], "big") * 512 * count >> 64
