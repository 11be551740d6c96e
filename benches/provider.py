"""What a provider learns of nights: what is public of them in the store, beside what is true. docs/GUARANTEES.md §6 has the
numbers, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator

sys.path.insert(0, str(Path(__file__).parent.parent / "docs/decoder"))

import seals  # noqa: E402
from content import Content, opened  # noqa: E402
from history import Session, Zone  # noqa: E402
from keyring import Keyring  # noqa: E402
from packs import DATA, Frame, Pack  # noqa: E402
from primitives import Cursor  # noqa: E402
from repository import Repository  # noqa: E402

BLOCK, WINDOW = 4096, 1 << 20
PASSPHRASE = "measured, and thrown away"


def main() -> None:
    program, fleet, *machines = sys.argv[1:]
    nights = sorted(Path(fleet).glob("night-*"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"SANCERRE_PASSWORD": PASSPHRASE, "SANCERRE_REPOSITORY": f"{folder}/repository"}
        subprocess.run([program, "init", "--key-file", f"{folder}/w.key"], check=True, capture_output=True)
        saved = [(machine, at, save(program, folder, nights[at], machine)) for at in range(len(nights)) for machine in machines]
        repository = Repository(Path(folder) / "repository", None, print)
        zone, keyring = Zone(repository, "default"), Keyring(repository, PASSPHRASE)
        sessions = {session.id.hash.hex(): session for session in zone.snapshots()}
        print("machine night  changed  new  new-bytes  packs  padded-frames  true-frames  stored-bytes  (KiB)")
        sizes: list[tuple[int, int]] = []
        for machine, at, told in saved:
            changed = sum(differences(nights[at - 1], nights[at], machine)) if at else 0
            sizes += row(zone, keyring, sessions[told["snapshot"]], machine, at, changed, told)
    sealed, true = ([pair[which] for pair in sizes] for which in (0, 1))
    print(f"{len(sizes)} data frames: padding is {100 * (sum(sealed) / sum(true) - 1):.2f} % of what is in them; "
          f"{alone(sealed):.1f} % have a size that no other has, without padding {alone(true):.1f} %")


def save(program: str, folder: str, night: Path, machine: str) -> dict[str, object]:
    disk = f"disk0={night}/{machine}.raw"
    command = [program, "backup", "--json", "--key-file", f"{folder}/w.key", "--vm", machine, disk]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def differences(before: Path, after: Path, machine: str) -> Iterator[int]:
    """Bytes of blocks that are not what they were."""
    with open(before / f"{machine}.raw", "rb") as one, open(after / f"{machine}.raw", "rb") as other:
        while window := other.read(WINDOW):
            was = one.read(WINDOW)
            for at in range(0, len(window), BLOCK) if window != was else ():
                if window[at : at + BLOCK] != was[at : at + BLOCK]:
                    yield BLOCK


def row(zone: Zone, keyring: Keyring, session: Session, machine: str, night: int, changed: int, told: dict[str, object]) -> list[tuple[int, int]]:
    content, manifest = opened(zone, session, keyring), session.manifest
    assert manifest is not None
    packs = [zone.read_pack(session.id.number, ordinal) for ordinal in session.packs]
    sizes = [(frame.size, used(content, pack, frame)) for pack in packs if pack.kind == DATA for frame in pack.frames]
    numbers = [changed, int(str(told["new_bytes"])), manifest.number("new-bytes"), sum(len(pack.data) for pack in packs),
               sum(size for size, _ in sizes), sum(true for _, true in sizes), manifest.number("stored-bytes")]
    print(machine, night, *(f"{number / 1024:12.0f}" for number in numbers), flush=True)
    return sizes


def used(content: Content, pack: Pack, frame: Frame) -> int:
    """The size of a data frame as it would be without padding."""
    root, sealed = content.session_key(frame.name.number), pack.sealed(frame)
    inner = seals.decrypted(sealed, root, seals.DATA, frame.session, frame.name.ordinal, frame.name.position)
    _, _, coded = Cursor(inner).fields("B3xII")
    return 48 + 12 + int(coded)


def alone(sizes: list[int]) -> float:
    """How many of a hundred sizes are there once."""
    counts: dict[int, int] = {}
    for size in sizes:
        counts[size] = counts.get(size, 0) + 1
    return 100 * sum(1 for size in sizes if counts[size] == 1) / max(len(sizes), 1)


if __name__ == "__main__":
    main()
