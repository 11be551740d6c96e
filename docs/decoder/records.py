"""FORMAT.md §2 and §4.4: signed records, and who may sign them."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from primitives import MIB, Cursor, Damaged, Unsupported, digest, require
from shapes import EVERY_ROLE, ROLES, SHAPES, TITLE
from titles import title

ARMOR = b"-----BEGIN SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----\n"
# Encodings of points of small order, without the sign bit: a signature under such a key proves nothing.
SMALL_ORDER = {bytes.fromhex(y) for y in (
    "00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)}


@dataclass(frozen=True)
class Signer:
    """Who signed a record: the admin, or the holder of a certificate."""

    name: str
    role: str
    key: bytes
    zone: str = "-"
    expires: str = "-"


@dataclass
class Record:
    """A record whose signature holds."""

    data: bytes
    kind: str
    signer: Signer
    public: bytes
    sealed: bytes
    values: dict[str, list[str]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.values[name][0]

    def number(self, name: str) -> int:
        return int(self[name])


@dataclass
class Admins:
    """FORMAT.md §4.6: the admin keys, from that of the configuration on."""

    keys: list[bytes]
    last: bytes
    number: int = 0
    froms: list[dict[str, int]] = field(default_factory=list)
    keeps: list[set[str]] = field(default_factory=list)

    def in_force(self, lines: list[str]) -> int:
        """Which key is in force for a record: by its number in its zone's log, else the last."""
        claims: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            claims.setdefault(name, value)
        decimal, session = claims.get("number", ""), re.fullmatch("([0-9a-f]{16})-(?!0{64})[0-9a-f]{64}", claims.get("session", ""))
        if "zone" not in claims or not (decimal.isdecimal() or ("number" not in claims and session)):
            return len(self.froms)
        number = int(decimal) if decimal else int(session[1], 16) if session else 0
        reached = 0
        while reached < len(self.froms) and self.froms[reached].get(claims["zone"], 1) <= number:
            reached += 1
        return reached

    def verify(self, text: bytes, signature: bytes, head: bytes, namespace: str, in_force: int) -> None:
        """Checks an admin's signature: of the key in force, of a later one, or of one before it if its record is kept."""
        made = next((at for at, key in enumerate(self.keys) if key in signature), 0)
        verify_signature(text, signature, namespace, self.keys[made])
        kept = made >= in_force or digest(head).hex() in self.keeps[in_force - 1]
        require(kept, "signed by an admin key that was replaced")

    def is_of_last(self, data: bytes) -> bool:
        """Whether the last key of the chain made this record of an admin, or keeps it."""
        _, signature, rest = _split(data)
        kept = bool(self.keeps) and digest(data[: len(data) - len(rest)]).hex() in self.keeps[-1]
        return kept or self.keys[-1] in signature

    def follow(self, record: Record) -> None:
        """Goes on to the key that a record of the chain hands over to."""
        key, number = ssh_key(record["admin"]), record.number("number")
        froms = {zone: int(number) for zone, _, number in (line.rpartition(" ") for line in record.values["from"])}
        require(record["previous"] == self.last.hex() and number > self.number, "it follows on another record")
        require(key not in self.keys, "its key was the admin's before")
        earlier = [zone for zone, from_ in (self.froms[-1] if self.froms else {}).items() if froms.get(zone, 0) < from_]
        require(not earlier, "it is in force before the key that it follows")
        terms = [f"{name}: {value}\n" for name in ("repository", "number", "admin", "previous", "created", "from", "keeps") for value in record.values[name]]
        proof = _base64(record["proof"])
        _, signature, _ = _split(b"sancerre-admin-proof-v1\n" + proof)
        text = ("sancerre-admin-proof-v1\n" + "".join(terms)).encode()
        verify_signature(text, signature, "sancerre-admin-proof-v1", key)
        self.keys.append(key)
        self.froms.append(froms)
        self.keeps.append({line.rpartition(" ")[2] for line in record.values["keeps"]})
        self.last, self.number = digest(record.data), number


def ssh_key(text: str) -> bytes:
    """The raw key in `ssh-ed25519 <base64>`."""
    wire = Cursor(_base64(text.removeprefix("ssh-ed25519 ")))
    require(_string(wire) == b"ssh-ed25519", "not an ssh-ed25519 key")
    key = _string(wire)
    wire.end()
    require(len(key) == 32, "an Ed25519 key has 32 bytes")
    return key


def fingerprint(text: str) -> str:
    """A trust anchor, as OpenSSH prints fingerprints."""
    return fingerprint_of(ssh_key(text))


def fingerprint_of(key: bytes) -> str:
    """The same of a raw key."""
    wire = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + key
    return "SHA256:" + base64.b64encode(hashlib.sha256(wire).digest()).decode().rstrip("=")


def decode(data: bytes, kind: str, repository: str, admins: Admins, parts: bool = True, in_force: int | None = None) -> Record:
    """A record of this kind and repository that the admin or somebody certified by the admin signed."""
    text, signature, rest = _split(data)
    lines = text.decode("ascii").splitlines()
    in_force = admins.in_force(lines) if in_force is None else in_force
    signer = _signer(lines, repository, admins, in_force)
    if signer.role == "admin":
        admins.verify(text, signature, data[: len(data) - len(rest)], lines[0], in_force)
    else:
        verify_signature(text, signature, lines[0], signer.key)
    _known(lines, kind)
    values = _fields(lines, kind)
    require(values["repository"][0] == repository, "of another repository")
    record = Record(data, kind, signer, b"", b"", values)
    if "signer" in values:
        _allowed(record)
    if parts:
        record.public, record.sealed = _parts(record, rest)
    return record


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The text, the signature's bytes, and the parts."""
    end = data.find(b"\n" + ARMOR[0], 0, 16 * MIB + 64) + 1
    require(0 < end <= 16 * MIB, "no signature")
    after = data.find(b"\n" + ARMOR[1], end) + 1
    require(after > 0, "the signature has no end")
    text, armored, rest = data[:end], data[end + len(ARMOR[0]) : after], data[after + len(ARMOR[1]) :]
    require(all(0x20 <= byte <= 0x7E or byte == 0x0A for byte in text), "the text is not printable ASCII")
    require(max(map(len, text.split(b"\n"))) <= 64 * 1024, "a line is too long")
    signature = _base64(armored.replace(b"\n", b"").decode("ascii", "replace"))
    code = base64.b64encode(signature)
    rows = [code[at : at + 70] + b"\n" for at in range(0, len(code), 70)]
    require(b"".join(rows) == armored, "the signature's armour is not canonical")
    return text, signature, rest


def _signer(lines: list[str], repository: str, admins: Admins, in_force: int) -> Signer:
    certificates = [line.removeprefix("certificate: ") for line in lines if line.startswith("certificate: ")]
    if not certificates or certificates[0] == "-":
        return Signer("admin", "admin", admins.keys[in_force])
    record = decode(_base64(certificates[0]), "certificate", repository, admins, parts=False, in_force=in_force)
    return certified(record)


def certified(record: Record) -> Signer:
    """The signer that a certificate makes."""
    require(record["name"] != "admin", "a certificate takes the admin's name")
    return Signer(record["name"], record["role"], ssh_key(record["key"]), record["zone"], record["expires"])


def verify_signature(text: bytes, signature: bytes, namespace: str, key: bytes) -> None:
    """Checks an SSHSIG (OpenSSH's PROTOCOL.sshsig), strictly."""
    blob = Cursor(signature)
    require(blob.take(6) == b"SSHSIG" and blob.take(4) == b"\0\0\0\1", "not an SSHSIG of version 1")
    public = Cursor(_string(blob))
    require(_string(public) == b"ssh-ed25519" and _string(public) == key, "signed by another key")
    public.end()
    require(_string(blob) == namespace.encode(), "signed for another use")
    require(_string(blob) == b"" and _string(blob) == b"sha512", "an SSHSIG of another form")
    inner = Cursor(_string(blob))
    require(_string(inner) == b"ssh-ed25519", "not an Ed25519 signature")
    raw = _string(inner)
    inner.end()
    blob.end()
    for point in (key, raw[:32]):
        require(point[:31] + bytes([point[31] & 0x7F]) not in SMALL_ORDER, "a point of small order")
    strings = (namespace.encode(), b"", b"sha512", hashlib.sha512(text).digest())
    message = b"SSHSIG" + b"".join(len(s).to_bytes(4, "big") + s for s in strings)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(raw, message)
    except (InvalidSignature, ValueError) as error:
        raise Damaged("the signature is wrong") from error


def _known(lines: list[str], kind: str) -> None:
    """Stops at what only a later reader understands; the signature was verified before."""
    found = re.fullmatch(r"sancerre-([a-z-]+)-v(\d+)", lines[0])
    require(found is not None and found[1] == kind, f"not a record of kind {kind}")
    if found and found[2] != "1":
        raise Unsupported(f"version {found[2]} of {kind}")
    require(len(lines) > 1 and lines[1].startswith("critical: "), "no critical features")
    if lines[1] != "critical: -":
        raise Unsupported(f"features {lines[1][10:]}")


def _fields(lines: list[str], kind: str) -> dict[str, list[str]]:
    """The values of the fields, which must be exactly those of the kind, in its order."""
    pairs = [line.partition(": ")[::2] for line in lines[2:]]
    if kind == "log":
        named = next((value for name, value in pairs if name == "kind"), "")
        kind = f"log {named}"
        if kind not in SHAPES:
            raise Unsupported(f"log entries of kind {named}")
    values: dict[str, list[str]] = {}
    at = 0
    for expected in SHAPES[kind]:
        many = values.setdefault(expected.name, [])
        while at < len(pairs) and pairs[at][0] == expected.name and (expected.many or not many):
            require(re.fullmatch(expected.pattern, pairs[at][1]) is not None, f"field {expected.name} is malformed")
            many.append(title(pairs[at][1]) if expected.pattern == TITLE else pairs[at][1])
            at += 1
        while expected.name == "x-" and at < len(pairs) and pairs[at][0].startswith("x-"):
            at += 1
        require(len(many) >= expected.least, f"field {expected.name} is missing")
        # By their bytes, which is the order of the characters.
        require(not expected.ascending or many == sorted(set(many)), f"fields {expected.name} are not ascending")
    require(at == len(pairs), "a field that this kind does not have")
    _times(values)
    return values


def _times(values: dict[str, list[str]]) -> None:
    for name in ("created", "issued", "expires", "time", "started", "finished", "retain-until", "lock-until"):
        for value in values.get(name, []):
            try:
                value == "-" or datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ")
            except ValueError as error:
                raise Damaged(f"field {name} is no time") from error


def _allowed(record: Record) -> None:
    """Whether the signer's role, zone and time allow what was signed."""
    signer = record.signer
    require(record["signer"] == signer.name, "signer and certificate disagree")
    roles = ROLES[" ".join([record.kind, *record.values.get("kind", [])])]
    require(signer.role in roles or EVERY_ROLE in roles, f"a {signer.role} may not sign this")
    if signer.role == "admin":
        return
    require(record["zone"] == signer.zone, "the certificate is for another zone")
    if record.kind in ("log", "checkpoint"):
        require(signer.expires == "-" or record["time"] <= signer.expires, "the certificate had expired")


def _parts(record: Record, rest: bytes) -> tuple[bytes, bytes]:
    sizes = [int(record[name].split(" ")[0]) for name in ("public", "sealed")]
    require(sum(sizes) == len(rest), "the parts are not as long as the text says")
    parts = rest[: sizes[0]], rest[sizes[0] :]
    for name, part in zip(("public", "sealed"), parts):
        require(digest(part).hex() == record[name].split(" ")[1], f"the {name} part was changed")
    return parts


def _string(cursor: Cursor) -> bytes:
    return cursor.take(int.from_bytes(cursor.take(4), "big"))


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Damaged("not base64") from error
    require(base64.b64encode(data).decode() == text, "base64 that is not canonical")
    return data
