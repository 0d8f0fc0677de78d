"""`forebay config show`: the settings in effect, and where each came from."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from forebay.cli.errors import EXIT_SETUP, show_error
from forebay.cli.flags import GivenSettings, shown_value, takes_settings
from forebay.core.errors import SetupError
from forebay.core.settings_sources import LoadedSettings, Row
from forebay.repository.catalog import Catalog

_PIPED_COLUMNS = 1000

app = typer.Typer(
    no_args_is_help=True, help="Look at the settings.", add_completion=False, pretty_exceptions_enable=False
)


@app.callback()
def config() -> None:
    """Look at the settings."""


@app.command("show")
@takes_settings
def show(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="Models, as for serve.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    *,
    given: GivenSettings,
) -> None:
    """Show the settings in effect and where each came from.

    Takes the same models and flags as serve, but for --name, and refuses settings that serve would refuse. Whether
    serve could start (keys, broker, loading) is not checked. A Python model's file is imported to read its class
    attributes. A model of a repository that serve would leave out is left out and named on stderr, and the exit code
    is 2.

    Examples:

      forebay config show

      forebay config show model.onnx --set model.max_batch_rows=32

      FOREBAY_SERVER__PORT=9000 forebay config show --json
    """
    loaded = given.load(os.environ)
    wrong = read_models(loaded, models or [])
    rows = loaded.rows()
    if as_json:
        typer.echo(rows_as_json(rows))
    else:
        print_table(rows)
    for error in wrong:
        show_error(error)
    if wrong:
        raise typer.Exit(EXIT_SETUP)


def read_models(loaded: LoadedSettings, models: list[str]) -> list[SetupError]:
    """Adds the models to the settings. None given: those that the sources name, without what lies beside a model.

    Returns why models of a repository are left out: serve would go on without them. Raises `SetupError` for any other
    model that cannot be opened, and for settings of one that is not among those given.
    """
    if not models:
        for name in loaded.model_names():
            loaded.model(name, {}, None)
        return []
    catalog = Catalog.open(models, None)
    sources, wrong = catalog.sources()
    for source in sources:
        try:
            in_repository = bool(source.settings_file)
            loaded.model(source.name, source.class_attributes(), source.sidecar, in_repository=in_repository)
        except SetupError as error:
            if catalog.is_named(source.name):
                raise
            wrong.append(error)
    loaded.check_models(catalog.first, others_may_come=catalog.may_grow)
    return wrong


def rows_as_json(rows: list[Row]) -> str:
    """A JSON list of {"key", "value", "source"}."""
    listed = [{"key": row.key, "value": row.value, "source": row.source} for row in rows]
    return msgspec.json.format(msgspec.json.encode(listed, enc_hook=str), indent=2).decode()


def print_table(rows: list[Row]) -> None:
    """The rows as a table on stdout; what is not a default stands out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for row in rows:
        style = "dim" if row.source == "default" else ""
        table.add_row(row.key, shown_value(row.value, row.key), row.source, style=style)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_COLUMNS  # One line a setting, so that grep finds all of it.
    console.print(table)
