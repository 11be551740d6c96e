"""Opens age files, as age-encryption.org/v1 describes them: passphrases, X25519 identities, and hybrids of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Callable, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
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


class Identity:
    """A secret key and its recipient: X25519, or the hybrid of ML-KEM-768 and X25519."""

    def __init__(self, text: str) -> None:
        self.hybrid = text.startswith("AGE-SECRET-KEY-PQ-1")
        if self.hybrid:
            # X-Wing: both keys come from one seed.
            expanded = hashlib.shake_256(parse_key(text, "age-secret-key-pq-", 32)).digest(96)
            lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
            self.x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
            self.key = MLKEM768X25519PrivateKey(lattice, self.x25519)
            self.public = lattice.public_key().public_bytes_raw() + self.x25519.public_key().public_bytes_raw()
        else:
            self.x25519 = X25519PrivateKey.from_private_bytes(parse_key(text, "age-secret-key-", 32))
            self.public = self.x25519.public_key().public_bytes_raw()

    def belongs_to(self, recipient: str) -> bool:
        """Whether a recipient is its public half."""
        return parse_key(recipient, "age1pq" if self.hybrid else "age", len(self.public)) == self.public


def with_identity(identity: Identity) -> Unwrap:
    """The file key of a file that is sealed to an identity."""
    return _with_hybrid(identity) if identity.hybrid else _with_x25519(identity.x25519)


def _with_hybrid(identity: Identity) -> Unwrap:
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)

    def unwrap(stanza: Stanza) -> bytes | None:
        if stanza.arguments[0] != "mlkem768x25519":
            return None
        try:
            share = _unpadded(stanza.arguments[1])
            return suite.decrypt(share + stanza.body, identity.key, b"age-encryption.org/mlkem768x25519")
        except InvalidTag:
            return None

    return unwrap


def _with_x25519(identity: X25519PrivateKey) -> Unwrap:
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


def parse_key(text: str, prefix: str, size: int) -> bytes:
    """The bytes of a recipient or an identity (Bech32, BIP 173, of any length)."""
    alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    require(text in (text.lower(), text.upper()), "age: a key of mixed case")
    human, _, data = text.lower().rpartition("1")
    require(human == prefix and set(data) <= set(alphabet), f"age: not a key that starts with {prefix}")
    values = [alphabet.index(character) for character in data]
    expanded = [ord(c) >> 5 for c in human] + [0] + [ord(c) & 31 for c in human] + values
    require(_bech32_sum(expanded) == 1, "age: a key with a wrong checksum")
    bits = "".join(f"{value:05b}" for value in values[:-6])
    wanted = 8 * size
    require(len(bits) == wanted + -wanted % 5 and "1" not in bits[wanted:], "age: a key of a wrong length")
    return int(bits[:wanted], 2).to_bytes(size, "big")


def _bech32_sum(values: list[int]) -> int:
    generator = [0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3]
    total = 1
    for value in values:
        top, total = total >> 25, (total & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate(generator):
            total ^= term if top >> bit & 1 else 0
    return total
