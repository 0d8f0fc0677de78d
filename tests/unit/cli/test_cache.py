"""`forebay cache inspect` and `clear`: which answers are meant, and that nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from forebay.cache.key import digest_of_id, entry_id
from forebay.cli import cache as cache_cli
from forebay.cli import main
from forebay.core.errors import SetupError

URL = "http://test"
PLAIN, DASHED = entry_id(bytes(32)), entry_id(b"\xfa" + bytes(31))
DOUBLY = entry_id(b"\xfb\xef" + bytes(30))
Called = tuple[str, str, Mapping[str, str]]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Called]:
    """What the server is asked."""

    def request(method: str, url: str, *, params: Mapping[str, str], **_: Any) -> httpx.Response:
        made.append((method, url.removeprefix(URL), params))
        return httpx.Response(200, json={"memory": 1, "store": None})

    made: list[Called] = []
    monkeypatch.setattr(httpx, "request", request)
    return made


def run(*arguments: str) -> tuple[int, str]:
    """The exit code, and what was said of an error."""
    done = CliRunner().invoke(cache_cli.app, [*arguments, "--url", URL])
    if isinstance(done.exception, SetupError):
        return 2, done.exception.message
    return done.exit_code, done.output


def test_ids_may_begin_with_dashes(calls: list[Called]) -> None:
    assert (DASHED[0], DOUBLY[:2]) == ("-", "--")
    for id in (PLAIN, DASHED, DOUBLY):
        assert digest_of_id(id) is not None
        for arguments in (("inspect", id), ("inspect", "--json", id), ("inspect", "--", id), ("clear", id)):
            # Behind `--` nothing is an option any more, so that --url comes first there.
            done = CliRunner().invoke(cache_cli.app, [arguments[0], "--url", URL, *arguments[1:]])
            assert done.exit_code == 0, done.output
        assert CliRunner().invoke(main.app, ["cache", "inspect", id, "--url", URL]).exit_code == 0
        assert {path for _, path, _ in calls} == {f"/v1/cache/{id}"}
        calls.clear()


def test_what_an_option_takes_is_no_id(calls: list[Called]) -> None:
    assert run("clear", "--tag", DASHED) == (0, "forgotten: 1 in memory\n")
    assert calls == [("DELETE", "/v1/cache", {"tag": DASHED})]


@pytest.mark.parametrize("wrong", ["--jsno", "-h", "-x", DASHED[:-1], DASHED + "A", "-" * 43])
def test_what_is_no_id_is_no_option_either(wrong: str, calls: list[Called]) -> None:
    code, out = run("inspect", PLAIN, wrong)
    assert (code, "No such option" in out, calls) == (2, True, [])


def test_one_entry_at_a_time(calls: list[Called]) -> None:
    for ids in ((PLAIN, DASHED), (DASHED, DOUBLY)):
        code, out = run("clear", *ids)
        assert (code, "unexpected extra argument" in out, calls) == (2, True, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("clear", "--tag", ""), "--tag is empty; leave it away where all are meant"),
        (("clear", "--model", "m", "--version="), "--version is empty; leave it away where all are meant"),
        (("clear", ""), "ENTRY is empty; leave it away where all are meant"),
        (("clear", PLAIN, "--model", "m"), "give either ENTRY or --model: an entry is one answer of one model"),
        (("inspect", ""), "ENTRY is empty; give the id"),
    ],
)
def test_what_is_meant_must_be_clear(arguments: tuple[str, ...], message: str, calls: list[Called]) -> None:
    code, out = run(*arguments)
    assert (code, out.startswith(message), calls) == (2, True, [])


def test_all_are_meant_where_nothing_is_said(calls: list[Called]) -> None:
    assert run("clear")[0] == 0
    assert run("clear", "--model", "m")[0] == 0
    assert calls == [("DELETE", "/v1/cache", {}), ("DELETE", "/v1/cache", {"model": "m"})]
