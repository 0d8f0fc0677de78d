"""Pure: a few settings put into the text of a `model.toml`, everything else in it left as somebody wrote it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from forebay.core.errors import SetupError

BEGIN: Final = "# -- forebay tune --"
END: Final = "# -- end of forebay tune --"

_KEY = re.compile(r"""\s*(?:"(?P<double>[A-Za-z0-9_-]+)"|'(?P<single>[A-Za-z0-9_-]+)'|(?P<bare>[A-Za-z0-9_-]+))\s*=""")

Value = int | float


def edited(text: str, values: Mapping[str, Value], evidence: Sequence[str]) -> str:
    """The text with these top-level keys set and the evidence as comments.

    A key that is there keeps its place and its comment; those that are not stand below the evidence, ahead of the first
    table. The evidence of an earlier run is replaced. Raises `SetupError` (`config_error`) for a text that is not TOML,
    or whose form this cannot edit; then nothing has been changed.
    """
    before = _parsed(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    top, tables = _split(_statements(_lines(text)))
    place, top = _without_evidence(top)
    _, tables = _without_evidence(tables)
    missing = dict(values)
    for at, statement in enumerate(top):
        match = _KEY.match(statement)
        name = match["double"] or match["single"] or match["bare"] if match else ""
        if name in values:
            missing.pop(name, None)
            top[at] = f"{name} = {_written(values[name])}{_comment(statement)}{newline}"
    block = [BEGIN, *(f"# {line}".rstrip() for line in evidence), END]
    block += [f"{name} = {_written(value)}" for name, value in missing.items()]
    written = [line + newline for line in block]
    if place is None:
        place = len(top)
        if top and not top[-1].endswith("\n"):
            top[-1] += newline
        written = [*([newline] if top and top[-1].strip() else []), *written, *([newline] if tables else [])]
    result = "".join([*top[:place], *written, *top[place:], *tables])
    # What was meant is what is in it now, whatever the text looks like.
    try:
        safe = tomllib.loads(result) == before | dict(values)
    except tomllib.TOMLDecodeError:
        safe = False
    if not safe:
        keys = "; ".join(f"{name} = {_written(value)}" for name, value in values.items())
        raise SetupError(f"is written in a way that cannot be edited safely; put into it yourself: {keys}")
    return result


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"is not valid TOML: {error}") from None


def _lines(text: str) -> list[str]:
    # Not splitlines: that would break at characters that are no line ends in TOML.
    return [line + "\n" for line in text.split("\n")[:-1]] + [rest for rest in text.split("\n")[-1:] if rest]


def _without_evidence(statements: Sequence[str]) -> tuple[int | None, list[str]]:
    """Where the evidence of an earlier run stood, and all the rest. It is comments from one mark to the other only."""
    kept: list[str] = []
    place: int | None = None
    begin: int | None = None
    for statement in statements:
        word = statement.strip()
        if word == BEGIN:
            begin = len(kept)
        elif not word.startswith("#"):
            begin = None
        kept.append(statement)
        if word == END and begin is not None:
            place = begin if place is None else place
            del kept[begin:]
            begin = None
    return place, kept


def _split(statements: list[str]) -> tuple[list[str], list[str]]:
    """What stands ahead of the first table, comments and empty lines too; the rest."""
    for place, statement in enumerate(statements):
        if statement.lstrip().startswith("["):
            # Comments right above a table are the table's, but for our own.
            while place and statements[place - 1].lstrip().startswith("#") and statements[place - 1].strip() != END:
                place -= 1
            return statements[:place], statements[place:]
    return statements, []


def _statements(lines: Sequence[str]) -> list[str]:
    """Whole statements, a value of several lines with them: the fewest lines that are TOML by themselves."""
    statements: list[str] = []
    begin = 0
    for end in range(1, len(lines) + 1):
        statement = "".join(lines[begin:end])
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        statements.append(statement)
        begin = end
    return [*statements, *lines[begin:]]


def _comment(statement: str) -> str:
    """The comment behind a value of one line, with the space in front of it; empty where there is none."""
    line = statement.rstrip("\r\n")
    for place, character in enumerate(line):
        if character == "#":
            try:
                tomllib.loads(line[:place])
            except tomllib.TOMLDecodeError:
                continue  # inside a text
            return line[len(line[:place].rstrip()) :]
    return ""


def _written(value: Value) -> str:
    return repr(value) if isinstance(value, float) and not value.is_integer() else str(int(value))
