"""`forebay log`: what a server has written of its requests and answers, in its data folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from forebay.core.errors import SetupError
from forebay.core.settings_sources import load_settings
from forebay.core.settings_values import did_you_mean
from forebay.request_log import folder as folders
from forebay.request_log.export import FORMATS, export
from forebay.request_log.reading import Reading, parts_of
from forebay.request_log.segment import Damage

_SUFFIXES: Mapping[str, str] = {".npz": "npz", ".parquet": "parquet", ".jsonl": "jsonl"}
_HELP = "Look at logged requests, export them, forget them."

app = typer.Typer(no_args_is_help=True, help=_HELP, add_completion=False, pretty_exceptions_enable=False)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]
Tenants = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant",
        metavar="NAME",
        help="Only of this API key; may be repeated. anonymous: those without a key.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="The server's data folder. Default: as for serve.", show_default=False
    ),
]


@app.callback()
def log() -> None:
    """Look at logged requests, export them, forget them. The setting request_log has them written."""


@app.command("export")
def export_(
    model: Model,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write: .npz, .parquet or .jsonl.")],
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="|".join(FORMATS), help="Default: by the suffix of FILE.", show_default=False),
    ] = None,
    tenant: Tenants = None,
    version: Annotated[
        list[str] | None,
        typer.Option("--version", metavar="N", help="Only of this version; may be repeated.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write logged rows to a file, each once, oldest first: inputs by name, outputs as output.NAME.

    The format chat is for models that take a text: messages in JSON lines, the answer as the assistant's.

    Examples:

      forebay log export digits --out digits.npz

      forebay log export support --out support.jsonl --format chat --tenant acme
    """
    chosen = form or _SUFFIXES.get(out.suffix.lower())
    if chosen not in FORMATS:
        told = f"--format cannot be {form!r}" if form else f"--out {out}: its suffix says no format"
        hint = did_you_mean(form, FORMATS) if form else ""
        raise SetupError(f"{told}; there are {', '.join(FORMATS)}{hint}")
    folder = _folder(model, _data_dir(data_dir))
    reading = Reading(folder, tenant, version)
    try:
        rows, lacking = export(reading, out, chosen)
    except OSError as error:
        raise SetupError(f"--out {out} cannot be written: {error.strerror or error}") from None
    typer.echo(f"{rows} rows written to {out}")
    if lacking:
        typer.echo(f"left out, since not every row has them: {', '.join(lacking)}; jsonl keeps them", err=True)
    _tell(reading.damage)


@app.command("stats")
def stats(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this one.", show_default=False)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show how many rows are logged, by model, version and API key.

    Examples:

      forebay log stats

      forebay log stats digits --json | jq '.[].rows'
    """
    place = _data_dir(data_dir)
    chosen = [_folder(model, place)] if model is not None else list(folders.models_in(place).values())
    damage = Damage()
    parts = [part for folder in chosen for part in parts_of(folder, damage)]
    if json_:
        typer.echo(msgspec.json.encode(parts).decode())
    elif not parts:
        typer.echo(f"nothing is logged below {place}; the setting request_log has requests written")
    else:
        for part in parts:
            since = datetime.fromtimestamp(part.since, UTC).strftime("%Y-%m-%d %H:%M:%S")
            typer.echo(
                f"{part.model} {part.version} {part.tenant}: {part.rows} rows, {part.bytes} bytes in {part.files} "
                f"files, since {since} UTC"
            )
    _tell(damage)


@app.command("clear")
def clear(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Of this model.", show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="Of all models.")] = False,
    tenant: Tenants = None,
    data_dir: DataDir = None,
) -> None:
    """Forget logged rows: of a model, or of all; of everybody, or of some API keys. Servers may run meanwhile.

    Examples:

      forebay log clear digits

      forebay log clear --all --tenant acme
    """
    if (model is None) != all_:
        raise SetupError("name the model whose log is to be forgotten, or say --all")
    place = _data_dir(data_dir)
    chosen = [_folder(model, place)] if model is not None else list(folders.models_in(place).values())
    files = nbytes = 0
    for folder in chosen:
        try:
            gone = folders.clear(folder, tenant)
        except OSError as error:
            raise SetupError(f"{folder} cannot be cleared: {error.strerror or error}") from None
        files, nbytes = files + gone[0], nbytes + gone[1]
    typer.echo(f"forgotten: {files} files, {nbytes} bytes")


def _data_dir(given: Path | None) -> Path:
    """As `serve` would find it."""
    return given or load_settings(config_file=None, environ=os.environ, flags={}, sets=()).settings.data_dir


def _folder(model: str, data_dir: Path) -> Path:
    known = folders.models_in(data_dir)
    if model not in known:
        there = f"there are {', '.join(known)}{did_you_mean(model, known)}" if known else "there is none at all"
        raise SetupError(
            f"no request of a model {model!r} is logged below {str(data_dir)!r}; {there}. --data-dir says where the "
            "server keeps its data, and the setting request_log has requests written (docs/request-log.md)"
        )
    return known[model]


def _tell(damage: Damage) -> None:
    """What could not be read, on stderr."""
    if damage.torn:
        typer.echo(f"{damage.torn} files end in a row that is not whole: a process ended, or is writing now", err=True)
    if damage.broken:
        typer.echo(f"{damage.broken} rows or files are damaged and were passed over", err=True)
