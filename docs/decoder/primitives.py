"""FORMAT.md §1: hashes, identifiers, and reading that trusts no size it finds."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import blake3
import zstandard

MIB = 1 << 20


class Damaged(Exception):
    """These bytes are not what version 1 of the format allows, or not what was signed or named."""


class Unsupported(Exception):
    """The bytes are in order but need a later reader."""


def require(holds: bool, rule: str) -> None:
    """Rejects bytes that break a rule."""
    if not holds:
        raise Damaged(rule)


def digest(data: bytes) -> bytes:
    """BLAKE3(data)."""
    return blake3.blake3(data).digest()


def keyed(key: bytes, data: bytes) -> bytes:
    """BLAKE3(key; data)."""
    return blake3.blake3(data, key=key).digest()


def kdf(context: str, material: bytes) -> bytes:
    """KDF(context; material)."""
    return blake3.blake3(material, derive_key_context=context).digest()


def decompress(data: bytes, limit: int) -> bytes:
    """Exactly one zstd frame that says how much it holds."""
    try:
        size = zstandard.frame_content_size(data)
        require(0 <= size <= limit, "compressed bytes announce no size, or too much")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged(f"zstd: {error}") from error


class SessionId(NamedTuple):
    """A session: its number, and the hash of its log entry, which authenticates it."""

    number: int
    hash: bytes

    @staticmethod
    def parse(text: str) -> SessionId:
        number, _, hash_ = text.partition("-")
        return SessionId(int(number, 16), bytes.fromhex(hash_))

    def __str__(self) -> str:
        return f"{self.number:016x}-{self.hash.hex()}"


class FrameName(NamedTuple):
    """Where a frame was first stored: session number, pack ordinal, position."""

    number: int
    ordinal: int
    position: int

    def __str__(self) -> str:
        return f"{self.number}/{self.ordinal}/{self.position}"


class Cursor:
    """Reads little-endian fields one after another, and never past the end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        require(size <= len(self.data) - self.at, "bytes end too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def fields(self, layout: str) -> tuple[Any, ...]:
        """Fields as `struct` spells them; `x` is a reserved byte and must be zero."""
        layout = "<" + layout
        raw = self.take(struct.calcsize(layout))
        values = struct.unpack(layout, raw)
        require(struct.pack(layout, *values) == raw, "a reserved field is not zero")
        return values

    def number(self, layout: str) -> int:
        return int(self.fields(layout)[0])

    def end(self) -> None:
        require(self.at == len(self.data), "bytes follow the end")
