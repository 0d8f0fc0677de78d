"""The `forebay` command. A subcommand's module is imported when it is called, so that `--help` stays quick."""

from __future__ import annotations

import importlib
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from forebay import __version__
from forebay.cli.errors import EXIT_FAULT, EXIT_SETUP, show_error, show_fault
from forebay.core.errors import SetupError


class Subcommand(NamedTuple):
    """Where a subcommand lives (a function, or a typer app of further ones) and its line in `forebay --help`."""

    module: str
    attribute: str
    summary: str


SUBCOMMANDS = {
    "serve": Subcommand("forebay.cli.serve", "serve", "Serve models over HTTP."),
    "web": Subcommand("forebay.cli.web", "web", "Take requests and jobs for models that workers have."),
    "worker": Subcommand("forebay.cli.worker", "worker", "Run models for web processes on any host."),
    "config": Subcommand("forebay.cli.config", "app", "Look at the settings."),
    "keys": Subcommand("forebay.cli.keys", "app", "Make API keys and secrets of webhooks."),
    "jobs": Subcommand("forebay.cli.jobs", "app", "Look at jobs, cancel them, follow them."),
    "cache": Subcommand(
        "forebay.cli.cache", "app", "Look at cached answers, forget them; calibrate the semantic cache."
    ),
    "log": Subcommand("forebay.cli.request_log", "app", "Look at logged requests, export them, forget them."),
    "simulate": Subcommand("forebay.cli.simulate", "simulate", "Simulate batching: arrivals in, latency out."),
    "optimize": Subcommand(
        "forebay.cli.optimize", "optimize", "Find a faster form of a model, proven to answer the same."
    ),
    "cascade": Subcommand(
        "forebay.cli.cascade", "cascade", "Find how sure a student must be to answer for its teacher."
    ),
    "variants": Subcommand("forebay.cli.variants", "variants", "Measure faster forms of a model, for overload."),
    "distill": Subcommand("forebay.cli.distill", "distill", "Train a small student that answers as a model does."),
    "bench": Subcommand("forebay.cli.bench", "bench", "Measure a running server."),
    "tune": Subcommand("forebay.cli.tune", "tune", "Find the settings that serve a model best under an SLO."),
    "conformance": Subcommand("forebay.cli.conformance", "conformance", "Check a server against the protocol."),
}


class LateGroup(TyperGroup):
    """Lists the subcommands from the table above and imports only the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """typer's own, with the real command in the place of the listed one."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, _imported(SUBCOMMANDS[name]) if name in SUBCOMMANDS else command, rest


def _imported(subcommand: Subcommand) -> Any:
    found = getattr(importlib.import_module(subcommand.module), subcommand.attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command()(found)
    return typer.main.get_command(single)


app = typer.Typer(cls=LateGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"forebay {__version__}")
        raise typer.Exit


@app.callback()
def forebay(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Forebay serves machine-learning models: requests pool for a moment, run as one batch, each gets its answer.

    Examples:

      forebay serve model.onnx

      forebay serve module.py:Class --port 9000

      forebay config show model.onnx
    """


def _listed() -> None:
    """Stands for a subcommand in the list; `LateGroup` puts the real one in its place."""


for _name, _subcommand in SUBCOMMANDS.items():
    app.command(_name, help=_subcommand.summary)(_listed)


def main() -> None:
    """The console script. A `SetupError` becomes one line on stderr and exit code 2, a fault of our own 70."""
    try:
        app(prog_name="forebay")
    except SetupError as error:
        show_error(error)
        raise SystemExit(EXIT_SETUP) from None
    except Exception:
        show_fault()
        raise SystemExit(EXIT_FAULT) from None
