#!/usr/bin/env python3
"""One night of users' work inside a mounted guest: documents, mail, log lines, or an attack on the documents.

The same seed on the same files writes the same bytes.
"""

import argparse
import hashlib
import io
import random
import zipfile
from pathlib import Path

WORDS = (
    "patient ward bed record scan blood emergency theatre duty visit discharge admission prescription dose mg morning "
    "noon evening night followup surgery cardiology paediatrics maternity laboratory result normal raised low "
    "appointment invoice insurance physician nurse treatment allergy history pressure pulse"
).split()


class Writer:
    """Makes the contents; all choices come from one seeded generator."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def word(self):
        return self.random.choice(WORDS)

    def text(self, words):
        numbered = (self.word() + (str(self.random.randrange(400)) if self.random.random() < 0.3 else "")
                    for _ in range(words))
        return " ".join(numbered)

    def size(self, mu, sigma=1.0):
        """File sizes are log-normal: many small ones, a few large ones."""
        return int(self.random.lognormvariate(mu, sigma))

    def spreadsheet(self):
        """Laid out as an .xlsx: a zip of deflated XML, which hardly compresses again."""
        rows = "".join(
            f"<row r='{row}'><c><v>{self.random.randrange(10**6)}</v></c><c><t>{self.text(4)}</t></c></row>"
            for row in range(self.size(5.5)))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in (("[Content_Types].xml", "<Types></Types>"),
                               ("xl/worksheets/sheet1.xml", f"<sheetData>{rows}</sheetData>")):
                archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
        return packed.getvalue()

    def scan(self):
        """A DICOM preamble and noisy pixels: compresses a little."""
        pixels = bytes(min(255, max(0, int(self.random.gauss(90, 8)))) for _ in range(200_000))
        return bytes(128) + b"DICM" + pixels

    def document(self):
        """File name ending and bytes."""
        kind = self.random.random()
        if kind < 0.55:
            return ".xlsx", self.spreadsheet()
        if kind < 0.80:
            return ".txt", self.text(self.size(6)).encode()
        if kind < 0.97:
            return ".pdf", b"%PDF-1.4\n" + self.random.randbytes(self.size(10.8))
        return ".dcm", self.scan()

    def add_documents(self, folder, count):
        for _ in range(count):
            ending, body = self.document()
            place = folder / self.word() / self.word()
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{self.word()}-{self.random.getrandbits(32):08x}{ending}").write_bytes(body)

    def edit_documents(self, folder, count):
        """Overwrites about a tenth of each chosen file in place."""
        files = all_files(folder)
        for path in self.random.sample(files, min(count, len(files))):
            length = path.stat().st_size
            _, body = self.document()
            with path.open("r+b") as file:
                file.seek(int(length * self.random.random()))
                file.write(body[:max(512, length // 10)])

    def add_mail(self, folder, count):
        for _ in range(count):
            message = f"From: {self.word()}@clinic.example\nSubject: {self.text(5)}\n\n{self.text(self.size(5.5))}\n"
            (folder / f"{self.random.getrandbits(64):016x}.eml").write_text(message)

    def append_log(self, path, lines):
        path.parent.mkdir(parents=True, exist_ok=True)
        number = self.random.randrange
        with path.open("a") as file:
            for _ in range(lines):
                file.write(f"192.0.2.{number(255)} - - [{number(86400)}] "
                           f'"GET /{self.word()}/{number(5000)} HTTP/1.1" 200 {number(90000)}\n')


def all_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def attack(folder):
    """What ransomware leaves: every document encrypted in place and renamed, and a note."""
    for path in all_files(folder):
        plain = path.read_bytes()
        key = hashlib.sha256(str(path.relative_to(folder)).encode()).digest()
        stream = random.Random(key).randbytes(len(plain))
        mixed = int.from_bytes(plain, "little") ^ int.from_bytes(stream, "little")
        with path.open("r+b") as file:
            file.write(mixed.to_bytes(len(plain), "little"))
        path.rename(path.with_name(path.name + ".locked"))
    (folder / "HOW_TO_DECRYPT.txt").write_text("All your files are encrypted. " * 20)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--documents", type=int, default=0, help="documents to add below the folder")
    parser.add_argument("--edit", type=int, default=0, help="documents to change in place")
    parser.add_argument("--mail", type=int, default=0, help="messages to add to the folder")
    parser.add_argument("--log", type=int, default=0, help="lines to append to the file")
    parser.add_argument("--attack", action="store_true", help="encrypt and rename every document")
    parser.add_argument("where", type=Path)
    arguments = parser.parse_args()
    writer = Writer(arguments.seed)
    if arguments.log:
        writer.append_log(arguments.where, arguments.log)
        return
    arguments.where.mkdir(parents=True, exist_ok=True)
    writer.add_mail(arguments.where, arguments.mail)
    writer.edit_documents(arguments.where, arguments.edit)
    if arguments.attack:
        attack(arguments.where)
    writer.add_documents(arguments.where, arguments.documents)


if __name__ == "__main__":
    main()
