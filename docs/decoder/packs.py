"""FORMAT.md §5: packs."""

from __future__ import annotations

from typing import NamedTuple

from primitives import MIB, Cursor, FrameName, SessionId, Unsupported, digest, require

DATA, METADATA, ANNEX = 1, 2, 3


class Frame(NamedTuple):
    """A line of the directory, and where the frame lies."""

    name: FrameName
    session: SessionId
    offset: int
    size: int
    hash: bytes


class Pack:
    """A pack whose layout is in order. Its frames are checked when they are taken."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        require(len(data) >= 64, "too short for a pack")
        trailer = Cursor(data[-64:])
        count, head_size, table_size, table_offset, ends_hash, magic = trailer.fields("IIII32s8x8s")
        require(magic == b"KCAPCNAS" and 1 <= count <= 65536, "no pack's trailer")
        directory_offset = table_offset + table_size
        require(directory_offset + count * 48 + 64 == len(data), "a pack is not as long as its parts")
        directory = data[directory_offset:-64]
        require(digest(data[:head_size] + data[table_offset:-64]) == ends_hash, "head, table or directory were changed")
        self.tail_hash = digest(data[table_offset:])
        self._head(Cursor(data[:head_size]))
        self.frames = self._directory(Cursor(directory), head_size)
        require(sum(frame.size for frame in self.frames) + head_size == table_offset, "frames and table do not meet")
        self.table = data[table_offset:directory_offset]

    def _head(self, head: Cursor) -> None:
        magic, version, self.kind, suite, critical, self.repository = head.fields("8sHBBI16s")
        require(magic == b"SANCPACK", "no pack's head")
        if version != 1 or suite != 1 or critical:
            raise Unsupported(f"pack version {version}, suite {suite}, features {critical}")
        require(self.kind > 0, "a pack of no kind")
        if self.kind > ANNEX:
            raise Unsupported(f"packs of kind {self.kind}")
        number, hash_, self.ordinal, sessions = head.fields("Q32sIH2x")
        require(1 <= sessions <= 1024, "a pack of no session, or of too many")
        self.session = SessionId(number, hash_)
        self.sessions: list[tuple[SessionId, bytes]] = []
        for _ in range(sessions):
            number, hash_, size = head.fields("Q32sH")
            require(size <= 4096 and (size == 0 or self.kind == DATA), "a sealed session key of a wrong size")
            self.sessions.append((SessionId(number, hash_), head.take(size)))
        require(self.sessions[0][0] == self.session, "the first session is not the writing one")
        require(len({session.number for session, _ in self.sessions}) == sessions, "a session is named twice")
        head.end()

    def _directory(self, directory: Cursor, offset: int) -> list[Frame]:
        frames: list[Frame] = []
        while directory.at < len(directory.data):
            session, ordinal, index, size, hash_ = directory.fields("H2xIII32s")
            require(session < len(self.sessions), "a frame of an unknown session")
            require(session or (ordinal, index) == (self.ordinal, len(frames)), "a frame of this session in a wrong place")
            require(size >= 304 and (size - 48) % 256 == 0, "no frame has this size")
            owner, sealed_key = self.sessions[session]
            require(self.kind != DATA or sealed_key != b"", "a data frame of a session without a key")
            frames.append(Frame(FrameName(owner.number, ordinal, index), owner, offset, size, hash_))
            offset += size
        require(len({frame.name for frame in frames}) == len(frames), "a frame is named twice")
        return frames

    def sealed(self, frame: Frame) -> bytes:
        """The sealed bytes of a frame, checked against the directory."""
        sealed = self.data[frame.offset : frame.offset + frame.size]
        require(digest(sealed) == frame.hash, f"frame {frame.name} was changed")
        return sealed


def parse_table(raw: bytes, frames: int) -> list[list[tuple[bytes, int]]]:
    """For each frame the ids and sizes of what lies in it, in order."""
    cursor = Cursor(raw)
    table = []
    for _ in range(frames):
        count = cursor.number("I")
        require(count >= 1, "an empty frame")
        entries = [cursor.fields("32sI") for _ in range(count)]
        require(all(size >= 1 for _, size in entries), "an empty chunk")
        require(sum(size for _, size in entries) <= 16 * MIB, "a frame of more than 16 MiB")
        table.append(entries)
    cursor.end()
    return table
