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
    top, tables = _split(_without_evidence(text))
    missing = dict(values)
    kept: list[str] = []
    for statement in top:
        match = _KEY.match(statement)
        name = match["double"] or match["single"] or match["bare"] if match else ""
        if name in values:
            missing.pop(name, None)
            kept.append(f"{name} = {_written(values[name])}{_comment(statement)}{newline}")
        else:
            kept.append(statement)
    if kept and not kept[-1].endswith("\n"):
        kept[-1] += newline
    block = [BEGIN, *(f"# {line}".rstrip() for line in evidence), END]
    block += [f"{name} = {_written(value)}" for name, value in missing.items()]
    gap = [newline] if kept and kept[-1].strip() else []
    ending = [newline] if tables else []
    result = "".join([*kept, *gap, *(line + newline for line in block), *ending, *tables])
    # What was meant is what is in it now, whatever the text looks like.
    if _parsed(result) != before | dict(values):
        keys = "; ".join(f"{name} = {_written(value)}" for name, value in values.items())
        raise SetupError(
            f"this model.toml is written in a way that cannot be edited safely; put into it yourself: {keys}"
        )
    return result


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"is not valid TOML: {error}") from None


def _lines(text: str) -> list[str]:
    # Not splitlines: that would break at characters that are no line ends in TOML.
    return [line + "\n" for line in text.split("\n")[:-1]] + [rest for rest in text.split("\n")[-1:] if rest]


def _without_evidence(text: str) -> str:
    """Without the comment lines of an earlier run; a line between them that is no comment stays.

    A mark inside a text of several lines is none: `_statements` knows.
    """
    kept: list[str] = []
    inside = False
    for statement in _statements(_lines(text)):
        word = statement.strip()
        if word == BEGIN:
            inside = True
        elif word == END:
            inside = False
        elif not (inside and word.startswith("#")):
            kept.append(statement)
    return "".join(kept)


def _split(text: str) -> tuple[list[str], list[str]]:
    """The statements ahead of the first table, with comments and empty lines as statements of their own; the rest."""
    statements = _statements(_lines(text))
    for place, statement in enumerate(statements):
        if statement.lstrip().startswith("["):
            # Comments right above a table are the table's.
            while place and statements[place - 1].lstrip().startswith("#"):
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
    return f"{value:g}" if isinstance(value, float) and not value.is_integer() else str(int(value))
