"""FORMAT.md §3: opening secret units."""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from primitives import MIB, Cursor, Damaged, SessionId, Unsupported, decompress, kdf, keyed, require

DATA, METADATA, TABLE, INDEX_TABLE, INDEX_PAGE, BODY = range(1, 7)
NOTE, ANNEX = 7, 8
SUITE = 1


def metadata_root(metadata_key: bytes, session: SessionId) -> bytes:
    """The root key of everything but data frames."""
    return kdf("sancerre v1 metadata", metadata_key + session.hash)


def open_unit(sealed: bytes, root: bytes, kind: int, session: SessionId, a: int, b: int = 0) -> bytes:
    """The raw bytes of a unit, checked against its key and its place."""
    return _unwrap(decrypted(sealed, root, kind, session, a, b))


def decrypted(sealed: bytes, root: bytes, kind: int, session: SessionId, a: int, b: int = 0) -> bytes:
    """What is sealed in a unit, padding and all."""
    inner_size = len(sealed) - 48
    require(256 <= inner_size <= 18 * MIB and inner_size % 256 == 0, "no unit has this size")
    associated = struct.pack("<4sBBxxQ32sIIIxxxx", b"SNC1", kind, SUITE, *session, a, b, inner_size)
    salt = sealed[:32]
    key = keyed(kdf("sancerre v1 seal key", root), salt)
    try:
        inner = AESGCM(key).decrypt(bytes(12), sealed[32:], associated)
    except InvalidTag as error:
        raise Damaged("a sealed unit does not open") from error
    require(keyed(kdf("sancerre v1 seal salt", root), associated + inner) == salt, "S is not the hash of what it seals")
    return inner


def _unwrap(inner: bytes) -> bytes:
    cursor = Cursor(inner)
    codec, raw_size, coded_size = cursor.fields("B3xII")
    if codec > 1:
        raise Unsupported(f"codec {codec}")
    require(max(raw_size, coded_size) <= 16 * MIB, "a unit announces more than 16 MiB")
    coded = cursor.take(coded_size)
    padding = inner[cursor.at :]
    require(not any(padding), "wrong padding")
    raw = decompress(coded, raw_size) if codec else coded
    require(len(raw) == raw_size, "a unit is not as long as it says")
    return raw
