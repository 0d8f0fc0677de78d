"""`forebay conformance`: our server passes every check, and a server with a mistake does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.mutating import Mutation, Reply, Request, mutating
from tests.e2e.mutations import MUTATIONS
from tests.e2e.server import Served, model, quick, run_once, serving

from forebay.conformance.check import Result, Verdict
from forebay.conformance.run import discover, run
from forebay.conformance.send import Sender
from forebay.conformance.suite import CHECKS

HONEST = Mutation("none", "")


def results(url: str, name: str, *areas: str) -> dict[str, Result]:
    """What the kit finds, by check."""
    with Sender(url, 20.0) as sender:
        subject = discover(sender, name)
        chosen = [one for one in CHECKS if not areas or one.area in areas]
        return {one.id: one for one in run(chosen, subject, sender)}


def faults(found: dict[str, Result]) -> list[str]:
    return [
        f"{one.id}: expected {one.expected}, got {one.came}" for one in found.values() if one.verdict is Verdict.FAIL
    ]


@pytest.mark.parametrize("name", ["echo", "texts", "ragged", "mlp"])
def test_our_server_passes_every_check(house: Served, name: str) -> None:
    found = results(f"http://127.0.0.1:{house.port}", name)
    assert faults(found) == []
    passed = [one for one in found.values() if one.verdict is Verdict.PASS]
    assert len(passed) >= 110


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("echo"), *quick(*model("plain.py", "Echo"))) as served:
        yield served


@pytest.fixture(scope="module")
def honest(echo: Served) -> dict[str, Result]:
    """What the kit finds through the proxy where it changes nothing."""
    with mutating(echo.port, HONEST) as url:
        return results(url, "echo")


def test_the_proxy_alone_changes_nothing(honest: dict[str, Result]) -> None:
    assert faults(honest) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_is_found(echo: Served, honest: dict[str, Result], mutation: Mutation) -> None:
    assert honest[mutation.found_by].verdict is Verdict.PASS
    with mutating(echo.port, mutation) as url:
        found = results(url, "echo", mutation.found_by.partition(".")[0])
    assert found[mutation.found_by].verdict is Verdict.FAIL, found[mutation.found_by]


@pytest.mark.parametrize(
    ("announced", "word", "check"),
    [
        ("logging", "logging", "logging.get"),
        ("trace", "trace", "trace.get"),
        ("classification", "classification", "classification.top"),
        ("generate", "generate", "generate.once"),
        ("model_repository", "repository", "repository.index"),
    ],
)
def test_what_is_announced_must_work(echo: Served, announced: str, word: str, check: str) -> None:
    """The metadata tells of an extension, and whatever uses it is answered with 501."""

    def after(request: Request, reply: Reply) -> Reply:
        if request.path == "/v2":
            document = reply.json()
            return reply.with_json({**document, "extensions": [*document["extensions"], announced]})
        uses = word in request.path or word.encode() in request.body
        return reply.with_json({"error": "not supported"}, 501) if uses else reply

    with mutating(echo.port, Mutation("announced", check, after)) as url:
        assert results(url, "echo", check.partition(".")[0])[check].verdict is Verdict.FAIL


def test_the_command_tells_and_exits_0(echo: Served, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    url = f"http://127.0.0.1:{echo.port}"
    ended = run_once(tmp_path, "conformance", url, "--json", str(report), "--only", "server", "--only", "infer")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "server.live" in ended.stdout
    assert "checks passed" in ended.stdout
    written = json.loads(report.read_text())
    assert written["passed"] is True
    assert written["model"] == "echo"
    one = next(entry for entry in written["results"] if entry["id"] == "infer.id")
    assert one["verdict"] == "pass"
    assert one["quote"] == "Optional, but if specified this identifier must be returned in the response."
    assert one["source_url"].startswith("https://github.com/kserve/open-inference-protocol/")


def test_the_command_exits_1_where_a_must_fails(echo: Served, tmp_path: Path) -> None:
    broken = next(one for one in MUTATIONS if one.name == "the id is lost")
    with mutating(echo.port, broken) as url:
        ended = run_once(tmp_path, "conformance", url, "--only", "infer.id", "--markdown")
    assert ended.returncode == 1
    assert "| `infer.id` | MUST | FAIL |" in ended.stdout


def test_the_command_says_what_is_missing(echo: Served, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{echo.port}"
    for arguments, told in (
        ((url, "--model", "nobody"), "no model 'nobody'"),
        ((url, "--only", "nothing"), "no such area or check"),
        (("https://127.0.0.1:1",), "no TLS"),
        (("http://127.0.0.1:1",), "no server answers"),
        ((url, "--inputs", "nowhere.json"), "nowhere.json"),
    ):
        ended = run_once(tmp_path, "conformance", *arguments)
        assert ended.returncode == 2
        assert told in ended.stderr


def test_inputs_may_be_given(echo: Served, tmp_path: Path) -> None:
    """Where made-up inputs do not do: the model's own example."""
    path = tmp_path / "request.json"
    path.write_text('{"inputs": "none"}')
    url = f"http://127.0.0.1:{echo.port}"
    ended = run_once(tmp_path, "conformance", url, "--inputs", str(path))
    assert ended.returncode == 2
    assert "the example request cannot be used" in ended.stderr
