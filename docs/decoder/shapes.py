"""The fields of every kind of record, in their order, and the roles that may sign it (FORMAT.md §4, §6–§8, §10.2)."""

from __future__ import annotations

from typing import NamedTuple

NUMBER = "0|[1-9][0-9]{0,19}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
TITLE = "(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+"
ZONE = "[a-z0-9][a-z0-9._-]{0,63}"
HASH = "[0-9a-f]{64}"
SESSION = f"[0-9a-f]{{16}}-{HASH}"
BASE64 = "[A-Za-z0-9+/]+={0,2}"
SSH_KEY = f"ssh-ed25519 {BASE64}"
SIZED_HASH = f"(?:{NUMBER}) {HASH}"
TEXT = "[!-~](?:[ -~]*[!-~])?"
UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
PROFILE = rf"min=(?:{NUMBER}) target=(?:{NUMBER}) max=(?:{NUMBER})"
PACK = rf"(?:{NUMBER}) (?:data|meta|annex) (?:{NUMBER}) {HASH} {HASH} {HASH} (?:{NUMBER})(?: x-[!-~]*)*"


class Field(NamedTuple):
    """One field: its name, what its value looks like, and how often it may occur."""

    name: str
    pattern: str
    many: bool = False
    least: int = 1
    ascending: bool = False


def _shape(*fields: Field) -> list[Field]:
    head = [Field("tool", TEXT), Field("repository", "[0-9a-f]{32}")]
    tail = [Field("x-", "", many=True, least=0), Field("public", SIZED_HASH), Field("sealed", SIZED_HASH)]
    return [*head, *fields, *tail]


_SIGNED = Field("signer", NAME), Field("certificate", f"-|{BASE64}")
_OUTCOME = Field("zone", ZONE), Field("session", SESSION), *_SIGNED
_SNAPSHOTS = Field("snapshot", SESSION, many=True, ascending=True)
_SOME_SNAPSHOTS = Field("snapshot", SESSION, many=True, least=0, ascending=True)
_MACHINES = Field("vm", TITLE, many=True, least=0, ascending=True)
_PARENTS = Field("parent", SESSION, many=True, least=0, ascending=True)
_REASON = Field("reason", TEXT)
_OF_WRITER = Field("writer", NAME), Field("from", NUMBER), _REASON


def _log(kind: str, *fields: Field) -> list[Field]:
    head = Field("zone", ZONE), Field("number", NUMBER), Field("kind", kind), *_SIGNED, Field("time", TIME)
    return _shape(*head, Field("previous", f"-|{HASH}"), Field("checkpoint", f"-|{NUMBER}"), *fields)


SHAPES: dict[str, list[Field]] = {
    "config": _shape(
        Field("created", TIME), Field("admin", SSH_KEY), Field("approvals-needed", NUMBER), Field("region-bytes", NUMBER), Field("leaf-bytes", NUMBER),
        Field("frame-bytes", NUMBER), Field("pack-bytes", NUMBER), Field("disk-profile", PROFILE), Field("stream-profile", PROFILE),
    ),
    "identity": _shape(Field("epoch", NUMBER), Field("created", TIME), Field("recipient", "age1[a-z0-9]+")),
    "recipient": _shape(
        Field("epoch", NUMBER), Field("label", NAME), Field("created", TIME), Field("recipient", f"passphrase|age1[a-z0-9]+|{SSH_KEY}"),
    ),
    "admin-key": _shape(Field("label", NAME), Field("created", TIME)),
    "admin": _shape(
        Field("number", NUMBER), Field("admin", SSH_KEY), Field("previous", HASH), Field("created", TIME),
        Field("from", rf"{ZONE} (?:{NUMBER})", many=True, least=0, ascending=True),
        Field("keeps", f"keys/[!-~]+ {HASH}", many=True, least=0, ascending=True), Field("proof", BASE64),
    ),
    "zone": _shape(Field("zone", ZONE), Field("generation", NUMBER), Field("created", TIME), Field("epoch", NUMBER)),
    "certificate": _shape(
        Field("zone", ZONE), Field("name", NAME), Field("role", f"(?!admin$){NAME}"), Field("key", SSH_KEY),
        Field("issued", TIME), Field("expires", f"-|{TIME}"),
    ),
    "list": _shape(Field("zone", ZONE), Field("session", SESSION), Field("sequence", NUMBER), *_SIGNED, Field("pack", PACK, many=True, least=0)),
    "log backup": _log(
        "backup", Field("vm", TITLE), Field("machine", f"-|{UUID}"), Field("generation", NUMBER), Field("epoch", NUMBER), Field("commitment", HASH), _PARENTS,
    ),
    "log gc": _log("gc", Field("generation", NUMBER)),
    "log forget": _log("forget", _SNAPSHOTS, _REASON),
    "log undelete": _log("undelete", _SNAPSHOTS, _REASON),
    "log hold": _log("hold", _SOME_SNAPSHOTS, _MACHINES, _REASON),
    "log release": _log("release", _SOME_SNAPSHOTS, _MACHINES, _REASON),
    "log approve": _log("approve", Field("entry", SESSION, many=True, ascending=True), _REASON),
    "log quorum": _log("quorum", Field("approvals-needed", NUMBER), _REASON),
    "log note": _log("note", Field("topic", NAME), Field("result", f"-|{NAME}"), _SOME_SNAPSHOTS),
    "log quarantine": _log("quarantine", _REASON),
    "log taint": _log("taint", *_OF_WRITER),
    "log revoke": _log("revoke", *_OF_WRITER),
    "log index": _log("index"),
    "log abandon": _log("abandon", Field("session", SESSION), _REASON),
    "manifest": _shape(
        *_OUTCOME, Field("vm", TITLE), Field("machine", f"-|{UUID}"), Field("started", TIME), Field("finished", TIME), _PARENTS, Field("disks", NUMBER),
        Field("size-bytes", NUMBER), Field("data-bytes", NUMBER), Field("new-bytes", NUMBER), Field("stored-bytes", NUMBER),
        Field("consistency", NAME), Field("scan", TEXT), Field("class", f"-|{NAME}"), Field("retain-until", f"-|{TIME}"),
        Field("lists", NUMBER), Field("segments", NUMBER), Field("lock-until", f"-|{TIME}"),
    ),
    "abort": _shape(*_OUTCOME, Field("time", TIME), _REASON),
    "commit": _shape(*_OUTCOME, Field("time", TIME), Field("previous", f"-|{SESSION}"), Field("records", HASH)),
    "checkpoint": _shape(
        Field("zone", ZONE), Field("upto", NUMBER), Field("previous", HASH), Field("commit", HASH), *_SIGNED, Field("time", TIME),
    ),
    "index": _shape(
        Field("zone", ZONE), Field("session", SESSION), Field("sequence", NUMBER), *_SIGNED, Field("generation", NUMBER),
        Field("covers", rf"(?:{NUMBER})/(?:{NUMBER})", many=True, least=0), Field("entries", NUMBER), Field("table", SIZED_HASH),
    ),
}

_ANYONE = "writer", "keeper", "admin"
EVERY_ROLE = "*"
_KEEPERS = "keeper", "admin"
ROLES: dict[str, tuple[str, ...]] = {
    "log backup": ("writer",), "manifest": ("writer",), "abort": _ANYONE, "list": _ANYONE, "index": _ANYONE,
    "log quarantine": _ANYONE, "log index": _ANYONE, "log gc": _KEEPERS, "commit": _KEEPERS,
    "log forget": _KEEPERS, "log undelete": _KEEPERS, "log hold": _KEEPERS, "log release": _KEEPERS,
    "log approve": ("keeper",), "log quorum": ("admin",), "log note": (EVERY_ROLE,), "checkpoint": _KEEPERS, "log taint": ("admin",), "log revoke": ("admin",),
    "log abandon": ("admin",),
}
