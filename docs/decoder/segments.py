"""FORMAT.md §10.2 and §10.3: index segments."""

from __future__ import annotations

import filters
import seals
from maps import Place
from primitives import Cursor, FrameName, SessionId, digest, require
from records import Record


# An id, and where the index says that it lies.
Entry = tuple[bytes, Place]


def check_segment(record: Record, root: bytes, session: SessionId, log_kind: str) -> list[Entry]:
    """Opens every page of a segment; its entries."""
    sequence, merged = record.number("sequence"), log_kind != "backup"
    require(merged or not record.values["covers"], "a backup's segment that covers others")
    size, hash_ = record["table"].split(" ")
    table_bytes, rest = record.sealed[: int(size)], record.sealed[int(size) :]
    require(digest(table_bytes).hex() == hash_, "the page table was changed")
    table = Cursor(seals.open_unit(table_bytes, root, seals.INDEX_TABLE, session, sequence))
    sessions = _sessions(table)
    require(merged or sessions == [session.number], "an index segment that names frames of others")
    kind, filter_size = table.fields("BI")
    require(kind or filter_size == 0, "a filter of no kind")
    filter_ = table.take(filter_size)
    entries, last, fence, at = 0, b"", 0, 0
    pages: list[list[Entry]] = []
    for page in range(table.number("I")):
        first, offset, sealed_size, count, page_hash = table.fields("QQII32s")
        require(first >= fence and offset == at and count >= 1, "pages out of order")
        sealed = rest[at : at + sealed_size]
        require(digest(sealed) == page_hash, "a page was changed")
        raw = seals.open_unit(sealed, root, seals.INDEX_PAGE, session, sequence, page)
        pages.append(_page(Cursor(raw), first, count, last, sessions))
        last = pages[-1][-1][0]
        entries, fence, at = entries + count, first, at + sealed_size
    table.end()
    require(at == len(rest) and entries >= 1, "bytes that no page has")
    require(entries == record.number("entries"), "another number of entries than announced")
    if kind == filters.GOLOMB:
        _check_filter(filter_, [[id_ for id_, _ in page] for page in pages])
    return [entry for page in pages for entry in page]


def _check_filter(filter_: bytes, pages: list[list[bytes]]) -> None:
    last, values = filters.page_values(filter_, [len(page) for page in pages])
    require(last == int.from_bytes(pages[-1][-1][:8], "big"), "a filter that ends elsewhere")
    for page, found in zip(pages, values):
        expected = sorted(filters.value(id_, len(page)) for id_ in page)
        require(found == expected, "a filter of other ids")


def _sessions(table: Cursor) -> list[int]:
    count = table.number("I")
    require(1 <= count <= 1 << 20, "an index of no sessions, or of too many")
    sessions = [table.number("Q") for _ in range(count)]
    require(sessions == sorted(set(sessions)), "sessions out of order")
    return sessions


def _page(page: Cursor, fence: int, count: int, last: bytes, sessions: list[int]) -> list[Entry]:
    """Checks a page; its entries."""
    entries = []
    for number in range(count):
        id_, session, ordinal, index, _at, _sealed, offset, size = page.fields("32sIIIIIII")
        require(id_ > last, "ids out of order")
        require(number > 0 or int.from_bytes(id_[:8], "big") == fence, "a fence is not the start of its page")
        require(session < len(sessions) and size >= 1, "a malformed entry")
        last = id_
        entries.append((id_, Place(FrameName(sessions[session], ordinal, index), offset, size)))
    page.end()
    return entries
