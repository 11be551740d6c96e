"""FORMAT.md §4: what a passphrase opens."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import age
from framesets import known_lines
from history import Session
from primitives import Damaged, kdf, require
from repository import Repository


class ZoneKeys(NamedTuple):
    """The secrets of one generation of a zone that a reader needs."""

    id_key: bytes
    metadata_key: bytes


class WrongPassphrase(Exception):
    """No identity opens with it."""


class Keyring:
    """The identities that a passphrase opens, and through them everything else."""

    def __init__(self, repository: Repository, passphrase: str) -> None:
        self.repository = repository
        self.identities: dict[int, age.Identity] = {}
        # The newest first: it opens those before it.
        for name, record in sorted(repository.recipients.items(), reverse=True):
            opened = _with_passphrase(record.sealed, passphrase) if record["recipient"] == "passphrase" else None
            if opened is not None:
                self._identity(f"keys/recipients/{name}", _secret(opened, "identity"))
                return
        raise WrongPassphrase("the passphrase opens no identity of this repository")

    def check_admin_keys(self, passphrase: str) -> list[str]:
        """Opens the admin's sealed keys; those that the passphrase does not open are returned."""
        unopened = []
        for label, record in self.repository.admin_keys.items():
            opened = _with_passphrase(record.sealed, passphrase)
            if opened is None:
                unopened.append(f"keys/admin/{label}")
            else:
                self._admin(f"keys/admin/{label}", _secret(opened, "admin"))
        return unopened

    def zone(self, name: str, generation: int) -> ZoneKeys:
        record = self.repository.zone_secrets.get(f"{name}-{generation:04x}")
        require(record is not None, f"keys/zones/{name}-{generation:04x}: missing")
        assert record is not None
        secret = _secret(self._unseal(record.sealed, record.number("epoch")), "zone")
        place = {"repository": self.repository.id, "zone": name, "generation": str(generation)}
        require(place.items() <= secret.items(), "the secrets of another zone")
        return ZoneKeys(bytes.fromhex(secret["id-key"]), bytes.fromhex(secret["metadata-key"]))

    def session_key(self, session: Session) -> bytes:
        """The key of a session's data frames, checked against the commitment in its log entry."""
        key = self._unseal(session.entry.sealed, session.entry.number("epoch"))
        commitment = kdf("sancerre v1 session commitment", key)
        require(commitment.hex() == session.entry["commitment"], "a session key that is not the announced one")
        return key

    def session_key_of(self, sealed: bytes) -> bytes:
        """The same from the head of a pack, for a session whose entry is lost: the frames that it opens prove it."""
        for identity in self.identities.values():
            opened = age.decrypt(sealed, age.with_identity(identity))
            if opened is not None:
                return opened
        raise Damaged("no identity opens a session key in the head of a pack")

    def _identity(self, key: str, secret: dict[str, str]) -> None:
        require(secret["repository"] == self.repository.id, f"{key}: of another repository")
        require(secret["admin"] == self.repository.admin_text, f"{key}: the configuration has another admin")
        record = self.repository.identities.get(f"{int(secret['epoch']):04x}")
        identity = age.Identity(secret["identity"])
        require(record is None or identity.belongs_to(record["recipient"]), f"{key}: not the identity of its epoch")
        epoch = int(secret["epoch"])
        self.identities[epoch] = identity
        # A record that is missing costs the epochs before it.
        if record is not None and record.sealed:
            former = _secret(self._unseal(record.sealed, epoch), "identity")
            require(int(former["epoch"]) < epoch, f"{key}: an identity before that is not older")
            self._identity(f"keys/identities/{epoch:04x}", former)

    def _admin(self, key: str, secret: dict[str, str]) -> None:
        """A signing key must be the one that the trust anchor names."""
        seed = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret["signing-key"]))
        require(secret["repository"] == self.repository.id, f"{key}: of another repository")
        require(seed.public_key().public_bytes_raw() in self.repository.admins.keys, f"{key}: not an admin's key")

    def _unseal(self, sealed: bytes, epoch: int) -> bytes:
        require(epoch in self.identities, f"no identity of epoch {epoch}")
        opened = age.decrypt(sealed, age.with_identity(self.identities[epoch]))
        require(opened is not None, f"sealed to another identity than that of epoch {epoch}")
        assert opened is not None
        return opened


def _with_passphrase(sealed: bytes, passphrase: str) -> bytes | None:
    """Opens with the normal form, else with what was entered."""
    normal = unicodedata.normalize("NFC", passphrase.strip("\ufeff\r\n"))
    for form in dict.fromkeys((normal, passphrase)):
        opened = age.decrypt(sealed, age.with_passphrase(form))
        if opened is not None:
            return opened
    return None


def _secret(text: bytes, kind: str) -> dict[str, str]:
    return dict(line.partition(": ")[::2] for line in known_lines(text, f"sancerre-{kind}-secret-v1"))
