"""What the second decoder makes of lost log entries, rule by rule. Run by `decoder.rs`, with `docs/decoder` as the path."""

from __future__ import annotations

import unittest
from unittest import mock

import zstandard

import history
import lost
from framesets import Lists
from history import Session
from lost import UNKNOWN, Lost, filler, implied
from primitives import Damaged, SessionId, digest
from records import Record, Signer

WRITER, KEEPER, ADMIN = (Signer(role, role, role.encode(), "default") for role in ("writer", "keeper", "admin"))
H, OTHER = bytes([0x11]) * 32, bytes([0x22]) * 32


def gc_text(*lines: str) -> bytes:
    text = "".join(f"{line}\n" for line in ("sancerre-gc-v1", "critical: -", *lines))
    return zstandard.ZstdCompressor().compress(text.encode())


class Repository:
    """Objects by their keys, and what they verify as."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.records: dict[str, Record] = {}

    @property
    def keys(self) -> list[str]:
        return sorted(self.objects)

    def under(self, prefix: str) -> list[str]:
        return [key for key in self.keys if key.startswith(prefix)]

    def read(self, key: str) -> bytes:
        return self.objects[key]

    def report(self, key: str, message: str) -> None:
        pass

    def verified(self, key: str, kind: str) -> Record:
        if key not in self.records:
            raise Damaged("no signature")
        return self.records[key]


class Zone:
    """A log as far as it is read."""

    name, prefix = "default", "zones/default/"

    def __init__(self) -> None:
        self.repository, self.sessions, self.abandoned, self.revoked = Repository(), {}, {}, []

    def abandoned_below(self, below: int) -> dict[str, int]:
        return self.abandoned

    def junk(self, number: int, data: bytes = b"rot") -> bytes:
        self.repository.objects[f"{self.prefix}log/{number:016x}"] = data
        return digest(data)

    def entry(self, number: int, kind: str, /, previous: bytes | None = None, signer: Signer = WRITER, public: bytes = b"", **values: list[str]) -> Session:
        """An entry that is there; the hash of what is below by default."""
        below = self.sessions.get(number - 1)
        hash_ = previous if previous is not None else below.id.hash if below else None
        values |= {"kind": [kind], "previous": [hash_.hex() if hash_ else "-"]}
        id_ = SessionId(number, self.junk(number, f"entry {number}".encode()))
        self.sessions[number] = Session(id_, Record(b"", "log", signer, public, b"", values))
        return self.sessions[number]

    def commit(self, number: int, *lines: str, previous: bytes | None = None) -> Session:
        session = self.entry(number, "gc", previous, KEEPER)
        session.outcome, session.lists = Record(b"", "commit", KEEPER, b"", b""), Lists(gc_text(*lines), number)
        return session

    def outcome(self, id_: SessionId, kind: str, signer: Signer = WRITER, time: str = "2026-01-01T00:00:00Z", *lines: str) -> SessionId:
        values = {"zone": [self.name], "session": [str(id_)], "time": [time], "started": [time], "vm": ["a"], "machine": ["-"], "parent": []}
        key = f"{self.prefix}outcome/{id_}"
        self.repository.objects[key] = f"sancerre-{kind}-v1\n".encode()
        self.repository.records[key] = Record(b"", kind, signer, gc_text(*lines) if kind == "commit" else b"", b"", values)
        return id_

    def admit(self, number: int, id_: SessionId, signer: Signer = ADMIN) -> None:
        text = f"sancerre-repair-v1\ncritical: -\nsession: {id_}\n"
        self.entry(number, "note", signer=signer, public=zstandard.ZstdCompressor().compress(text.encode()), topic=["repair"])

    def is_revoked(self, signer: Signer, number: int) -> bool:
        return signer in self.revoked

    def read(self) -> tuple[dict[int, SessionId], Lost]:
        """What stands, and what is left."""
        found, lost_ = {}, Lost(self)
        for id_, record in lost_.stand():
            session = Session(id_, implied(record), record, is_lost=True)
            session.lists = Lists(record.public, id_.number) if record.kind == "commit" else None
            self.sessions[id_.number], found[id_.number] = session, id_
        return found, lost_


class LostEntries(unittest.TestCase):
    def setUp(self) -> None:
        self.zone = Zone()
        self.zone.entry(1, "backup", parent=[])
        self.h, self.other = SessionId(2, H), SessionId(2, OTHER)

    def stands(self) -> SessionId | None:
        return self.zone.read()[0].get(2)

    def unresolved(self) -> list[SessionId]:
        return self.zone.read()[1].unresolved()

    def test_the_entry_above_says_what_stood_there(self) -> None:
        self.zone.entry(3, "hold", H)
        self.zone.outcome(self.other, "manifest")
        self.assertEqual((self.stands(), self.unresolved()), (None, [self.h]))
        self.zone.outcome(self.h, "manifest")
        self.assertEqual((self.stands(), self.unresolved()), (self.h, [self.other]))
        self.zone.revoked = [WRITER]
        self.assertEqual(self.unresolved(), [])

    def test_no_parent_line_is_heard_against_it(self) -> None:
        self.zone.entry(3, "hold", H)
        self.zone.entry(4, "backup", parent=[str(self.other)])
        self.zone.outcome(self.other, "manifest")
        self.assertEqual((self.stands(), self.unresolved()), (None, [self.h]))

    def test_a_parent_line_and_what_a_commit_saw_count_where_it_says_nothing(self) -> None:
        self.zone.entry(4, "backup", parent=[str(self.h)])
        self.zone.outcome(self.h, "manifest")
        self.zone.outcome(self.other, "manifest")
        self.assertEqual(self.stands(), self.h)
        self.zone = Zone()
        self.zone.commit(4, f"seen: {self.other}")
        self.zone.outcome(self.h, "manifest")
        self.zone.outcome(self.other, "manifest")
        self.assertEqual(self.stands(), self.other)

    def test_a_void_entry_says_nothing(self) -> None:
        self.zone.entry(3, "hold", H).void_by = 4
        self.assertEqual(self.unresolved(), [])

    def test_bytes_that_never_were_an_entry_are_no_loss(self) -> None:
        self.zone.entry(3, "hold", self.zone.junk(2))
        self.assertEqual((self.stands(), self.unresolved()), (None, []))
        self.zone.outcome(self.h, "manifest")
        self.assertEqual((self.stands(), self.unresolved()), (None, [self.h]))

    def test_what_fills_a_number_says_nothing(self) -> None:
        self.zone.entry(3, "hold", self.zone.junk(2, filler(self.h)))
        self.assertEqual((self.stands(), self.unresolved()), (None, []))
        self.zone.outcome(self.h, "manifest")
        self.assertEqual((self.stands(), self.unresolved()), (self.h, [self.h]))
        self.zone.sessions.pop(2)
        del self.zone.repository.objects["zones/default/log/0000000000000002"]
        self.assertEqual((self.stands(), self.unresolved()), (self.h, [self.h]))

    def test_the_newest_speaks_for_itself_if_it_is_alone(self) -> None:
        self.zone.outcome(self.h, "manifest")
        third = self.zone.outcome(SessionId(3, H), "manifest")
        self.zone.outcome(SessionId(5, H), "manifest")
        self.assertEqual(self.zone.read()[0], {2: self.h, 3: third})

    def test_of_two_that_speak_for_themselves_neither_stands(self) -> None:
        self.zone.junk(2)
        self.zone.outcome(self.h, "manifest")
        self.zone.outcome(self.other, "commit", KEEPER)
        self.assertEqual((self.stands(), self.unresolved()), (None, [self.h, self.other]))
        self.zone.revoked = [KEEPER]
        self.assertEqual(self.stands(), self.h)

    def test_of_two_signers_it_is_that_for_which_the_number_is_filled(self) -> None:
        self.zone.outcome(self.h, "manifest")
        self.zone.outcome(self.other, "manifest", Signer("other", "writer", b"other", "default"))
        self.assertEqual(self.unresolved(), [self.h, self.other])
        self.zone.junk(2, filler(self.other))
        self.assertEqual((self.stands(), self.unresolved()), (self.other, [self.h]))

    def test_the_admin_says_which_of_two_it_was(self) -> None:
        self.zone.entry(3, "hold", OTHER)
        self.zone.outcome(self.h, "manifest")
        self.zone.outcome(self.other, "manifest")
        self.assertEqual((self.stands(), self.unresolved()), (self.other, [self.h]))
        self.zone.sessions.pop(2)
        self.zone.admit(4, self.h)
        self.assertEqual((self.stands(), self.unresolved()), (self.h, []))

    def test_of_one_signer_it_is_that_with_the_least_hash(self) -> None:
        self.zone.outcome(self.other, "manifest")
        self.zone.outcome(self.h, "manifest")
        self.assertEqual(self.stands(), self.h)

    def test_a_snapshot_speaks_for_itself_where_the_entry_above_is_lost_too(self) -> None:
        self.zone.entry(4, "hold", OTHER)
        self.zone.outcome(SessionId(3, OTHER), "manifest")
        self.zone.outcome(self.h, "commit", KEEPER)
        found, lost_ = self.zone.read()
        self.assertEqual((found, lost_.unresolved()), ({3: SessionId(3, OTHER)}, []))
        self.zone.sessions.pop(3)
        self.zone.outcome(self.h, "manifest")
        self.assertEqual(self.stands(), self.h)

    def test_nor_do_two_there(self) -> None:
        self.zone.entry(4, "hold")
        self.zone.outcome(self.h, "manifest")
        self.zone.outcome(self.other, "manifest", Signer("other", "writer", b"other", "default"))
        self.assertEqual((self.stands(), self.unresolved()), (None, [self.h, self.other]))

    def test_it_does_so_where_that_entry_says_nothing_and_no_collector_goes_on(self) -> None:
        self.zone.entry(3, "hold")
        self.zone.outcome(self.h, "manifest")
        self.assertEqual((self.stands(), self.unresolved()), (self.h, [self.h]))
        self.zone.admit(4, self.h)
        self.assertEqual(self.unresolved(), [])

    def test_nobody_read_what_is_rotten_and_no_collector_goes_on(self) -> None:
        self.zone.junk(2)
        self.zone.entry(3, "hold")
        self.assertEqual(self.unresolved(), [SessionId(2, UNKNOWN)])

    def test_a_copy_of_its_very_bytes_is_the_entry(self) -> None:
        copy = b"a revocation"
        self.zone.entry(3, "hold", digest(copy))
        self.zone.repository.objects["keys/revoked/thief"] = copy
        self.assertEqual(Lost(self.zone).copies(), [])
        self.zone.repository.records["keys/revoked/thief"] = Record(copy, "log", ADMIN, b"", b"", {"kind": ["revoke"]})
        ((id_, record),) = Lost(self.zone).copies()
        self.assertEqual((id_, record["kind"]), (SessionId(2, digest(copy)), "revoke"))
        self.zone.repository.objects["keys/revoked/thief"] = b"another"
        self.assertEqual(Lost(self.zone).copies(), [])

    def old(self, kind: str, **values: list[str]) -> bool:
        """Whether an entry of a replaced admin key counts at a number of which the next entry read another one."""
        self.zone.entry(2, kind, signer=ADMIN, **values).is_of_old_admin = True
        self.zone.entry(3, "hold", H)
        history.Zone._distrust_old_admins(self.zone)
        return 2 in self.zone.sessions

    def revoke(self, number: int) -> dict[str, list[str]]:
        return {"number": [str(number)], "writer": ["writer"], "from": ["2"]}

    def test_a_replaced_admin_key_signs_nothing_where_the_next_entry_read_another_one(self) -> None:
        self.assertFalse(self.old("hold"))

    def test_a_revoked_liar_takes_nothing_from_it(self) -> None:
        self.zone.entry(4, "revoke", H, ADMIN, **self.revoke(4))
        self.assertTrue(self.old("hold"))

    def test_and_it_revokes_nobody_who_speaks_against_it(self) -> None:
        self.assertFalse(self.old("revoke", **self.revoke(2)))

    def test_what_filled_the_number_speaks_against_nobody(self) -> None:
        self.zone.outcome(self.other, "manifest")
        self.zone.entry(2, "hold", signer=ADMIN).is_of_old_admin = True
        self.zone.entry(3, "hold", digest(filler(self.other)))
        history.Zone._distrust_old_admins(self.zone)
        self.assertIn(2, self.zone.sessions)

    def test_a_manifest_below_a_commit_that_did_not_know_it_is_late(self) -> None:
        self.zone.entry(3, "hold", H)
        self.zone.outcome(self.h, "manifest")
        commit = self.zone.commit(4)
        self.assertEqual((self.stands(), self.unresolved()), (None, [self.h]))
        self.zone.abandoned = {str(commit.id): 5}
        self.assertEqual(self.stands(), self.h)
        for line in ("seen", "forgotten"):
            self.zone.sessions.pop(2, None)
            self.zone.abandoned = {}
            self.zone.commit(4, f"{line}: {self.h}")
            self.assertEqual(self.stands(), self.h)

    def test_a_commit_stands_if_the_admin_admitted_it(self) -> None:
        self.zone.entry(3, "hold", H)
        self.zone.outcome(self.h, "commit", KEEPER)
        self.zone.admit(4, self.h, KEEPER)
        found, lost_ = self.zone.read()
        self.assertEqual((found, lost_.unresolved(), list(lost_.doubted())), ({}, [self.h], [self.h]))
        self.zone.admit(5, self.h)
        found, lost_ = self.zone.read()
        self.assertEqual((found, lost_.unresolved(), lost_.doubted()), ({2: self.h}, [], {}))

    def test_an_admitted_commit_closes_what_is_below_it(self) -> None:
        self.zone.entry(4, "hold", OTHER)
        self.zone.entry(5, "backup", parent=[str(self.h)])
        self.zone.outcome(self.h, "manifest")
        self.zone.outcome(SessionId(3, OTHER), "commit", KEEPER)
        self.assertEqual(self.zone.read()[0], {2: self.h})
        self.zone.sessions.pop(2)
        self.zone.admit(6, SessionId(3, OTHER))
        self.assertEqual(self.zone.read()[0], {3: SessionId(3, OTHER)})

    def test_an_abort_ends_it_and_one_of_the_admin_what_nobody_knows(self) -> None:
        self.zone.entry(3, "hold", H)
        self.zone.outcome(SessionId(2, UNKNOWN), "abort", KEEPER)
        self.assertEqual((self.stands(), self.unresolved()), (None, [self.h]))
        self.zone.outcome(SessionId(2, UNKNOWN), "abort", ADMIN)
        self.assertEqual((self.stands(), self.unresolved()), (None, []))
        self.zone.outcome(self.h, "manifest")
        self.assertIsNone(self.stands())
        self.zone = Zone()
        self.zone.entry(3, "hold", H)
        self.zone.outcome(self.h, "abort")
        found, lost_ = self.zone.read()
        self.assertEqual((found, lost_.ended, lost_.unresolved()), ({}, {2: self.h}, []))

    def test_a_certificate_that_had_expired_signs_nothing_for_a_lost_entry(self) -> None:
        self.zone.entry(3, "hold", H)
        ended = Signer("w", "writer", b"w", "default", "2026-06-01T00:00:00Z")
        self.zone.outcome(self.h, "manifest", ended, "2026-06-01T00:00:01Z")
        self.assertIsNone(self.stands())
        self.zone.outcome(self.h, "manifest", ended, "2026-06-01T00:00:00Z")
        self.assertEqual(self.stands(), self.h)

    def test_what_is_not_of_this_session_stands_for_nothing(self) -> None:
        self.zone.entry(3, "hold", H)
        self.zone.outcome(self.h, "manifest")
        record = self.zone.repository.records[f"zones/default/outcome/{self.h}"]
        with mock.patch.dict(record.values, {"zone": ["another"]}):
            self.assertIsNone(self.stands())
        with mock.patch.dict(record.values, {"session": [str(self.other)]}):
            self.assertIsNone(self.stands())
        self.assertEqual(lost.KINDS[b"sancerre-manifest-v1"], "manifest")


if __name__ == "__main__":
    unittest.main()
