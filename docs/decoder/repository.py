"""FORMAT.md §1.2 and §4: the folder, its configuration, and what the admin signed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable

from primitives import MIB, Damaged, digest, require
from records import Admins, Record, certified, decode, fingerprint, fingerprint_of, ssh_key
from shapes import HASH, NAME, ZONE

_FORMS = re.compile(
    rf"config|keys/admins/[0-9a-f]{{4}}|keys/identities/[0-9a-f]{{4}}|keys/recipients/[0-9a-f]{{4}}-{NAME}|keys/admin/{NAME}|keys/zones/{ZONE}-[0-9a-f]{{4}}"
    rf"|keys/certificates/{NAME}|keys/revoked/{NAME}|keys/quorums/{ZONE}-[0-9a-f]{{16}}|zones/{ZONE}/checkpoints/[0-9a-f]{{16}}|zones/{ZONE}/log/[0-9a-f]{{16}}|zones/{ZONE}/outcome/[0-9a-f]{{16}}-{HASH}"
    rf"|zones/{ZONE}/packs/[0-9a-f]{{16}}/[0-9a-f]{{8}}-{HASH}|zones/{ZONE}/(?:lists|index)/[0-9a-f]{{16}}-{HASH}/[0-9a-f]{{8}}"
)


_LARGEST = {"log": 32 * MIB, "outcome": 64 * MIB, "lists": 32 * MIB, "index": 128 * MIB, "checkpoints": 64 * MIB, "packs": 1088 * MIB}


def largest(key: str) -> int:
    """FORMAT.md §1.4: the largest size of the object at a key."""
    words = key.split("/")
    return _LARGEST[words[2]] if words[0] == "zones" else MIB


class Repository:
    """A repository in a folder. What does not verify is reported, with its key, and not used."""

    def __init__(self, root: Path, trust: str | None, report: Callable[[str, str], None]) -> None:
        self.root, self.report = root, report
        files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        self.keys = [key for key in files if _FORMS.fullmatch(key)]
        own = ("probe/", "reserve/")  # FORMAT.md §1.2: never read
        for key in (key for key in set(files).difference(self.keys) if not key.startswith(own)):
            report(key, "not a key of version 1")
        try:
            self._trust()
            self.config = decode(self.read("config"), "config", self.id, self.admins)
            require(self.config["admin"] == self.admin_text, "it names two admins")
            _check_sizes(self.config)
        except Damaged as error:
            raise Damaged(f"config: {error}") from error
        for key in self.under("keys/admins/"):
            self._follow(key)
        pinned = [fingerprint_of(key) for key in self.admins.keys]
        require(trust is None or trust in pinned, f"config: its admin is {self.anchor}, which is not the trust anchor")
        self.identities = self._by_admin("keys/identities/", "identity")
        self.recipients = self._by_admin("keys/recipients/", "recipient")
        self.admin_keys = self._by_admin("keys/admin/", "admin-key")
        self.zone_secrets = self._by_admin("keys/zones/", "zone")
        for record in self._by_admin("keys/certificates/", "certificate").values():
            certified(record)

    def read(self, key: str) -> bytes:
        path = self.root / key
        require(path.is_file(), "missing")
        require(path.stat().st_size <= largest(key), "larger than its kind may be")
        return path.read_bytes()

    def under(self, prefix: str) -> list[str]:
        return [key for key in self.keys if key.startswith(prefix)]

    def decode(self, key: str, kind: str) -> Record | None:
        """The record at a key, or a report and nothing."""
        try:
            return self.verified(key, kind)
        except Damaged as error:
            self.report(key, str(error))
            return None

    def verified(self, key: str, kind: str) -> Record:
        """The record at a key, which must verify."""
        return decode(self.read(key), kind, self.id, self.admins)

    def _follow(self, key: str) -> None:
        """One step of the chain of admin keys; what is none of it is reported."""
        try:
            record = decode(self.read(key), "admin", self.id, self.admins)
            require(key == f"keys/admins/{record.number('number'):04x}", "a record of another number")
            self.admins.follow(record)
        except Damaged as error:
            self.report(key, str(error))

    def _trust(self) -> None:
        """Takes repository and admin from the configuration, which must be signed by that admin."""
        data = self.read("config")
        text = data.partition(b"\n-----BEGIN")[0].decode("ascii", "replace")
        claims = dict(line.partition(": ")[::2] for line in text.split("\n"))
        self.id, self.admin_text = claims.get("repository", ""), claims.get("admin", "")
        self.anchor = fingerprint(self.admin_text)
        self.admins = Admins([ssh_key(self.admin_text)], digest(data))

    def _by_admin(self, prefix: str, kind: str) -> dict[str, Record]:
        """The records under a prefix by the rest of their keys."""
        found = {}
        for key in self.under(prefix):
            record = self.decode(key, kind)
            if record and key == prefix + _name(record):
                found[_name(record)] = record
            elif record:
                self.report(key, "a record of another name")
        return found


def _name(record: Record) -> str:
    """What the key of a record ends in."""
    if record.kind == "identity":
        return f"{record.number('epoch'):04x}"
    if record.kind == "recipient":
        return f"{record.number('epoch'):04x}-{record['label']}"
    if record.kind == "admin-key":
        return record["label"]
    return f"{record['zone']}-{record.number('generation'):04x}" if record.kind == "zone" else record["name"]


def _check_sizes(config: Record) -> None:
    bounds = {"region-bytes": (MIB, 1024 * MIB), "leaf-bytes": (MIB, 32 * MIB), "frame-bytes": (MIB // 16, 16 * MIB), "pack-bytes": (MIB, 1024 * MIB)}
    for name, (least, most) in bounds.items():
        size = config.number(name)
        require(least <= size <= most and size & (size - 1) == 0, f"{name} {size}")
    require(config.number("leaf-bytes") <= config.number("region-bytes"), "a leaf is larger than a region")
    for name in ("disk-profile", "stream-profile"):
        least, target, most = sizes = [int(size) for size in re.findall("[0-9]+", config[name])]
        require(all(size & (size - 1) == 0 for size in sizes), f"{name}")
        require(4096 <= least <= target <= most <= min(MIB, config.number("frame-bytes")), f"{name}")
