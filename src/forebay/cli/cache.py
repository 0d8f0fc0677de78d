"""`forebay cache`: the answer cache of a running server, and the calibration of a semantic one."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer
from typer.core import TyperCommand

from forebay.cache.key import digest_of_id
from forebay.cli.calibrate import calibrate
from forebay.cli.remote import DEFAULT_URL, ApiKey, AsJson, Url, refuse_empty, telling
from forebay.client.errors import UnreachableError, error_of
from forebay.core.errors import SetupError
from forebay.core.header_values import bearer

TIMEOUT_S = 30.0

_HELP = "Look at cached answers, forget them; calibrate the semantic cache."

app = typer.Typer(
    no_args_is_help=True,
    help=_HELP,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class EntryCommand(TyperCommand):
    """A command that takes the id of an entry. One in 64 begins with a dash and would be read as an option; whoever
    copies it from an answer cannot know that."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """typer's own, with ids behind a `--`. What an option takes as its value stays where it is."""
        end = args.index("--") if "--" in args else len(args)
        takes = {name for param in self.params if not getattr(param, "is_flag", True) for name in param.opts}
        ids = [
            at
            for at in range(end)
            if args[at].startswith("-") and digest_of_id(args[at]) and (at == 0 or args[at - 1] not in takes)
        ]
        if ids:
            others = [word for at, word in enumerate(args[:end]) if at not in ids]
            args = [*others, "--", *(args[at] for at in ids), *args[end + 1 :]]
        return super().parse_args(ctx, args)


Entry = Annotated[str, typer.Argument(metavar="ENTRY", help="The id, as X-Cache-Entry of an answer says it.")]


@app.callback()
def cache() -> None:
    """Look at cached answers, forget them; calibrate the semantic cache."""


app.command("calibrate")(calibrate)


@app.command("stats")
def stats(url: Url = DEFAULT_URL, api_key: ApiKey = None, json_: AsJson = False) -> None:
    """Show how many answers are kept, and what came of the requests that asked.

    Examples:

      forebay cache stats

      forebay cache stats --json | jq .models
    """
    found = _call("GET", "", {}, url, api_key)
    if json_:
        typer.echo(msgspec.json.encode(found).decode())
        return
    for place in ("memory", "store"):
        held = found[place]
        typer.echo(f"{place:8} {held['entries']} answers, {held['bytes']} bytes" if held else f"{place:8} none")
    for one in found["models"]:
        served = one["exact"] + one["coalesced"] + one["semantic"]
        asked = served + one["miss"]
        share = served / asked if asked else 0.0
        typer.echo(
            f"{one['model']} {one['version']}: {asked} asked, {one['exact']} exact, {one['coalesced']} coalesced, "
            f"{one['semantic']} semantic, "
            f"{one['miss']} missed, {share:.1%} from the cache, {one['saved_s']:.1f} s of computing saved"
        )


@app.command("inspect", cls=EntryCommand)
def inspect(entry: Entry, url: Url = DEFAULT_URL, api_key: ApiKey = None, json_: AsJson = False) -> None:
    """Show one cached answer, without its values.

    Examples:

      forebay cache inspect yx2Z6l0XkKD9n3bGAPpQXQZQZ0c4CA3Qkz3H4p0AkaM
    """
    if not entry:
        raise SetupError("ENTRY is empty; give the id, as X-Cache-Entry of an answer says it")
    found = _call("GET", "/" + quote(entry, safe=""), {}, url, api_key)
    if json_:
        typer.echo(msgspec.json.encode(found).decode())
        return
    for name, value in found.items():
        typer.echo(f"{name:12} {value}")


@app.command("clear", cls=EntryCommand)
def clear(
    entry: Annotated[str | None, typer.Argument(metavar="[ENTRY]", help="Only this one.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.", show_default=False)] = None,
    version: Annotated[str | None, typer.Option("--version", help="Only of this version.", show_default=False)] = None,
    tag: Annotated[
        str | None,
        typer.Option("--tag", help="Only those that were asked for with this Cache-Tag.", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Forget cached answers: all, or those of a model, a version, a tag, or one.

    Examples:

      forebay cache clear --model minilm

      forebay cache clear yx2Z6l0XkKD9n3bGAPpQXQZQZ0c4CA3Qkz3H4p0AkaM
    """
    given = {"model": model, "version": version, "tag": tag}
    refuse_empty(ENTRY=entry, **{f"--{name}": value for name, value in given.items()})
    wanted = {name: value for name, value in given.items() if value is not None}
    if entry is not None and wanted:
        raise SetupError(f"give either ENTRY or --{', --'.join(wanted)}: an entry is one answer of one model")
    found = _call("DELETE", "" if entry is None else f"/{quote(entry, safe='')}", wanted, url, api_key)
    store = f", {found['store']} in the store" if found["store"] is not None else ""
    typer.echo(f"forgotten: {found['memory']} in memory{store}")


def _call(method: str, path: str, query: dict[str, str], url: str, api_key: str | None) -> Any:
    """One call. What the server refuses becomes a line on stderr and exit code 1."""
    import httpx  # comes with an extra, of whose lack the client tells

    headers = {"authorization": bearer(api_key)} if api_key else {}
    with telling(url):
        try:
            answer = httpx.request(
                method, f"{url.rstrip('/')}/v1/cache{path}", params=query, headers=headers, timeout=TIMEOUT_S
            )
        except httpx.HTTPError as error:
            raise UnreachableError(str(error) or type(error).__name__) from None
        try:
            found = msgspec.json.decode(answer.content)
        except msgspec.DecodeError:
            found = None
        if answer.status_code != 200 or not isinstance(found, dict):
            raise error_of(answer.status_code, found if isinstance(found, dict) else None, answer.text)
    return found
