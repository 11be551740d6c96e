"""Verifies a Sancerre repository in a folder, or restores a disk from it. Written from docs/FORMAT.md alone."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from content import opened
from framesets import FrameSet
from history import Session, Zone
from keyring import Keyring, WrongPassphrase
from primitives import Damaged, Unsupported
from repository import Repository
from verify import verify

FINE, FAILED, USAGE, WRONG_KEY, DAMAGED = 0, 1, 2, 12, 20


def main() -> int:
    arguments = parse_arguments()
    findings: list[str] = []

    def report(key: str, message: str) -> None:
        findings.append(key)
        print(f"{key}: {message}", file=sys.stderr)

    try:
        repository = Repository(arguments.repository, arguments.trust, report)
        if not arguments.trust:
            print(f"trusting {repository.anchor} on first sight; give --trust to be sure", file=sys.stderr)
        secret = None if arguments.command == "verify" and arguments.public else passphrase()
        keyring = None if secret is None else Keyring(repository, secret)
        zones = [Zone(repository, name) for name in zone_names(repository)]
        if arguments.command == "restore" and keyring:
            return restore(zones, keyring, arguments)
        if arguments.command == "files" and keyring:
            return files(zones, keyring, arguments)
        for key in keyring.check_admin_keys(secret) if keyring and secret is not None else []:
            print(f"{key}: not opened by this passphrase", file=sys.stderr)
        print(verify(zones, keyring), f"{len(findings)} findings" if findings else "nothing is wrong")
        return DAMAGED if findings else FINE
    except WrongPassphrase as error:
        print(error, file=sys.stderr)
        return WRONG_KEY
    except (Damaged, Unsupported) as error:
        print(error, file=sys.stderr)
        return DAMAGED
    except OSError as error:
        print(error, file=sys.stderr)
        return FAILED


def parse_arguments() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--trust", metavar="SHA256:…", help="the trust anchor that init printed")
    common.add_argument("repository", type=Path)
    parser = argparse.ArgumentParser(prog="decoder", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("verify", parents=[common], help="check everything")
    command.add_argument("--public", action="store_true", help="ask for no passphrase and open nothing")
    command = commands.add_parser("files", parents=[common], help="list the files of a snapshot by its catalogue")
    command.add_argument("snapshot", help="the start of a snapshot's id")
    command = commands.add_parser("restore", parents=[common], help="write one disk of a snapshot to a new file")
    command.add_argument("snapshot", help="the start of a snapshot's id")
    command.add_argument("disk")
    command.add_argument("target", type=Path)
    return parser.parse_args()


def passphrase() -> str:
    return os.environ.get("SANCERRE_PASSWORD") or getpass.getpass("passphrase: ")


def zone_names(repository: Repository) -> list[str]:
    return sorted({key.split("/")[1] for key in repository.under("zones/")})


def one(zones: list[Zone], arguments: argparse.Namespace) -> tuple[Zone, Session] | None:
    """The snapshot that is meant."""
    found = [(zone, snapshot) for zone in zones for snapshot in zone.snapshots() if snapshot.id.hash.hex().startswith(arguments.snapshot)]
    if len(found) != 1:
        print(f"{len(found)} snapshots start with {arguments.snapshot}", file=sys.stderr)
        return None
    return found[0]


def files(zones: list[Zone], keyring: Keyring, arguments: argparse.Namespace) -> int:
    """Lists what the catalogue of a snapshot names, in folders as they lie."""
    named = one(zones, arguments)
    if named is None:
        return USAGE
    zone, snapshot = named
    content = opened(zone, snapshot, keyring)
    disks = content.disks(snapshot)
    disk = next((disk for disk in disks if disk.role == "catalogue"), None)
    if disk is None or snapshot.manifest is None:
        print("the snapshot has no catalogue", file=sys.stderr)
        return USAGE
    for file in content.catalogue(disk, disks, FrameSet(snapshot.manifest.public, snapshot.id.number)).files:
        path = b"/".join(part for part in (file.folder, file.name) if part)
        print(f"{file.size:>12}  /{path.decode('utf-8', 'backslashreplace')}")
    return FINE


def restore(zones: list[Zone], keyring: Keyring, arguments: argparse.Namespace) -> int:
    """Restores one disk; a target that is not whole is not left behind."""
    named = one(zones, arguments)
    if named is None:
        return USAGE
    zone, snapshot = named
    content = opened(zone, snapshot, keyring)
    disk = next((disk for disk in content.disks(snapshot) if disk.name == arguments.disk), None)
    if disk is None or snapshot.manifest is None:
        print(f"the snapshot has no disk {arguments.disk}", file=sys.stderr)
        return USAGE
    with open(arguments.target, "xb") as target:
        try:
            content.restore(disk, FrameSet(snapshot.manifest.public, snapshot.id.number), target)
        except BaseException:
            arguments.target.unlink()
            raise
    print(f"{arguments.target}: {disk.size} bytes, {disk.chunks} chunks, all as their ids say")
    return FINE


if __name__ == "__main__":
    sys.exit(main())
