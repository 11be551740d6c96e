"""Opens age files, as age-encryption.org/v1 describes them: passphrases and X25519 identities."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Callable, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from primitives import Damaged, require

MAX_LOG_N = 18
CHUNK = 64 * 1024


class Stanza(NamedTuple):
    """One way to the file key."""

    arguments: list[str]
    body: bytes


Unwrap = Callable[[Stanza], bytes | None]


def with_passphrase(passphrase: str) -> Unwrap:
    """The file key of a file that a passphrase seals."""

    def unwrap(stanza: Stanza) -> bytes | None:
        if stanza.arguments[0] != "scrypt":
            return None
        salt, log_n = _unpadded(stanza.arguments[1]), int(stanza.arguments[2])
        require(1 <= log_n <= MAX_LOG_N, f"scrypt's work factor {log_n} is refused")
        key = hashlib.scrypt(
            passphrase.encode(), salt=b"age-encryption.org/v1/scrypt" + salt,
            n=1 << log_n, r=8, p=1, maxmem=(1 << log_n) * 1024 + (1 << 20), dklen=32,
        )
        return _open(key, bytes(12), stanza.body)

    return unwrap


def with_identity(identity: X25519PrivateKey) -> Unwrap:
    """The file key of a file that is sealed to an X25519 recipient."""
    recipient = identity.public_key().public_bytes_raw()

    def unwrap(stanza: Stanza) -> bytes | None:
        if stanza.arguments[0] != "X25519":
            return None
        share = _unpadded(stanza.arguments[1])
        shared = identity.exchange(X25519PublicKey.from_public_bytes(share))
        key = _hkdf(shared, share + recipient, b"age-encryption.org/v1/X25519")
        return _open(key, bytes(12), stanza.body)

    return unwrap


def decrypt(data: bytes, unwrap: Unwrap) -> bytes | None:
    """What an age file holds; nothing when no stanza opens."""
    header, stanzas, mac, payload = _parse(data)
    for stanza in stanzas:
        try:
            file_key = unwrap(stanza)
        except (ValueError, IndexError) as error:
            raise Damaged("age: a malformed stanza") from error
        if file_key is not None:
            expected = hmac.digest(_hkdf(file_key, b"", b"header"), header, "sha256")
            require(hmac.compare_digest(mac, expected), "age: the header was changed")
            return _stream(_hkdf(file_key, payload[:16], b"payload"), payload[16:])
    return None


def _parse(data: bytes) -> tuple[bytes, list[Stanza], bytes, bytes]:
    """The header up to its `---`, its stanzas, its MAC, and what follows."""
    lines: list[str] = []
    stanzas: list[Stanza] = []
    at = 0
    while not lines or not lines[-1].startswith("--- "):
        end = data.find(b"\n", at, at + 4096)
        require(end >= 0, "age: the header has no end")
        lines.append(data[at:end].decode("ascii", "replace"))
        at = end + 1
    require(lines[0] == "age-encryption.org/v1", "age: not an age file")
    for line in lines[1:-1]:
        if line.startswith("-> "):
            stanzas.append(Stanza(line[3:].split(" "), b""))
        else:
            require(bool(stanzas), "age: a body without a stanza")
            stanzas[-1] = Stanza(stanzas[-1].arguments, stanzas[-1].body + _unpadded(line))
    mac = lines[-1][4:]
    return data[: at - len(mac) - 2], stanzas, _unpadded(mac), data[at:]


def _stream(key: bytes, payload: bytes) -> bytes:
    """STREAM: chunks of 64 KiB, each under its own counter, the last one marked."""
    plain = []
    chunks = [payload[at : at + CHUNK + 16] for at in range(0, len(payload), CHUNK + 16)]
    for counter, chunk in enumerate(chunks):
        nonce = counter.to_bytes(11, "big") + bytes([counter == len(chunks) - 1])
        opened = _open(key, nonce, chunk)
        require(opened is not None, "age: the payload was changed")
        plain.append(opened or b"")
    return b"".join(plain)


def _open(key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, None)
    except InvalidTag:
        return None


def _hkdf(material: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(material)


def _unpadded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise Damaged("age: not base64") from error


def parse_key(text: str, prefix: str) -> bytes:
    """The 32 bytes of an `age1…` recipient or an `AGE-SECRET-KEY-1…` identity (Bech32, BIP 173)."""
    alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    require(text in (text.lower(), text.upper()), "age: a key of mixed case")
    human, _, data = text.lower().rpartition("1")
    require(human == prefix and set(data) <= set(alphabet), f"age: not a key that starts with {prefix}")
    values = [alphabet.index(character) for character in data]
    expanded = [ord(c) >> 5 for c in human] + [0] + [ord(c) & 31 for c in human] + values
    require(_bech32_sum(expanded) == 1, "age: a key with a wrong checksum")
    bits = "".join(f"{value:05b}" for value in values[:-6])
    require(len(bits) == 260 and bits[256:] == "0000", "age: a key of a wrong length")
    return int(bits[:256], 2).to_bytes(32, "big")


def _bech32_sum(values: list[int]) -> int:
    generator = [0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3]
    total = 1
    for value in values:
        top, total = total >> 25, (total & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate(generator):
            total ^= term if top >> bit & 1 else 0
    return total
