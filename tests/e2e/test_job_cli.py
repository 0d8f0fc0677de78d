"""`forebay jobs` against the real server: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.server import COMMAND, Served, environment, eventually, model, quick, run_once, serving

from forebay.api.auth import key_line, new_secret

UNKNOWN = "019ab5f0-1234-7abc-8def-0123456789ab"
MODELS = [*model("faulty.py", "Pause", "Faulty"), *model("streaming.py", "Count", "Steps"), *model("plain.py", "Texts")]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("cli"), *quick(*MODELS)) as running:
        yield running


class Ran:
    """What came of a command; `lines` of its standard output."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.lines = done.stdout.splitlines()
        assert "Traceback" not in self.err, self.err

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def jobs(served: Served, *arguments: str, **environ: str) -> Ran:
    """`forebay jobs ARGUMENTS` on a server."""
    url = f"http://127.0.0.1:{served.port}"
    return Ran(run_once(served.folder, "jobs", *arguments, "--url", url, **environ))


def submitted(served: Served, name: str, value: Any, **more: Any) -> str:
    answer = served.http.post(f"/v1/models/{name}/jobs", json={"input": value, **more})
    assert answer.status_code == 202, answer.text
    id: str = answer.json()["id"]
    return id


def ended(served: Served, id: str) -> dict[str, Any]:
    found: dict[str, Any] = served.http.get(f"/v1/jobs/{id}", headers={"prefer": "wait=60"}).json()
    assert found["finished_at"], found
    return found


def failed(served: Served, count: int = 1) -> list[str]:
    ids = [submitted(served, "faulty", {"x": [13.0]}) for _ in range(count)]
    assert {ended(served, id)["status"] for id in ids} == {"failed"}
    return ids


@pytest.mark.parametrize(
    "command", ["list", "show", "cancel", "submit", "watch", "dead list", "dead replay", "dead purge"]
)
def test_help_has_examples(tmp_path: Path, command: str) -> None:
    done = run_once(tmp_path, "jobs", *command.split(), "--help")
    assert done.returncode == 0
    assert f"forebay jobs {command}" in done.stdout.split("Examples:")[1]


def test_a_job_is_submitted_listed_and_shown(served: Served) -> None:
    body = '{"input": {"x": [3.0]}, "metadata": {"who": "me"}}'
    done = jobs(served, "submit", "pause", "--data", body)
    assert (done.code, done.err) == (0, "")
    [id] = done.lines
    ended(served, id)
    listed = jobs(served, "list", "--model", "pause", "--limit", "1")
    assert listed.lines[0].split() == ["id", "model", "status", "attempt", "created", "took", "error"]
    assert listed.lines[1].startswith(f"{id}  pause  succeeded  1/3")
    [found] = jobs(served, "list", "--model", "pause", "--status", "succeeded", "--limit", "1", "--json").objects()
    assert (found["id"], found["status"], found["metadata"]) == (id, "succeeded", {"who": "me"})
    shown = jobs(served, "show", id)
    told = dict(line.split(maxsplit=1) for line in shown.lines)
    assert (told["id"], told["status"], json.loads(told["output"])["output"]) == (id, "succeeded", {"y": [3.0]})
    [document] = jobs(served, "show", id, "--json").objects()
    assert document["output"]["output"] == {"y": [3.0]}


def test_a_body_comes_from_a_file_or_from_stdin(served: Served) -> None:
    body = '{"input": {"x": [4.0]}}'
    (served.folder / "body.json").write_text(body)
    by_file = jobs(served, "submit", "pause", "--data", "@body.json", "--key", "k1")
    piped = subprocess.run(
        [*COMMAND, "jobs", "submit", "pause", "--key", "k1", "--url", f"http://127.0.0.1:{served.port}"],
        input=body,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # The same key, the same job.
    assert piped.stdout == by_file.out
    missing = jobs(served, "submit", "pause", "--data", "@nothing.json")
    assert (missing.code, missing.err) == (2, "error: --data @nothing.json: No such file or directory\n")


def test_canceling(served: Served) -> None:
    ids = [submitted(served, "pause", {"x": [1500.0]}) for _ in range(2)]
    done = jobs(served, "cancel", *ids)
    assert (done.code, done.lines) == (0, [f"{id} canceled" for id in ids])
    late = submitted(served, "pause", {"x": [1.0]})
    ended(served, late)
    done = jobs(served, "cancel", late)
    assert (done.code, done.lines) == (1, [f"{late} succeeded"])


@pytest.mark.parametrize("command", [("show",), ("cancel",), ("watch",), ("dead", "replay"), ("dead", "purge")])
def test_an_unknown_job_is_one_line_that_names_the_mend(served: Served, command: tuple[str, ...]) -> None:
    done = jobs(served, *command, UNKNOWN)
    assert done.code == 1
    assert done.out == ""
    assert done.err == f"error: there is no job {UNKNOWN}; forebay jobs list shows those that there are\n"


def test_errors_name_the_mend(served: Served, tmp_path: Path) -> None:
    nowhere = Ran(run_once(tmp_path, "jobs", "list", "--url", "http://127.0.0.1:9"))
    assert nowhere.code == 1
    assert nowhere.err.startswith("error: no server answers at http://127.0.0.1:9 (")
    assert nowhere.err.endswith("; start one with forebay serve, or name it with --url\n")
    wrong = Ran(run_once(tmp_path, "jobs", "list", "--url", "localhost:8000"))
    assert (wrong.code, wrong.err) == (2, "error: url must be like http://127.0.0.1:8000, got 'localhost:8000'\n")
    for arguments, message in (
        (("watch",), "give either the ID of a job or --model"),
        (("watch", UNKNOWN, "--model", "pause"), "give either the ID of a job or --model"),
        (("dead", "replay"), "give either IDs of failed jobs or --all"),
        (("dead", "purge", UNKNOWN, "--all"), "give either IDs of failed jobs or --all"),
        (("dead", "purge", "--all", "--yes", "--model", ""), "--model is empty; leave it away where all are meant"),
        (("dead", "purge", UNKNOWN, "--model", "m"), "--model goes with --all; an ID says which job it is"),
    ):
        done = jobs(served, *arguments)
        assert (done.code, done.err) == (2, f"error: {message}\n")
    nobody = jobs(served, "submit", "nobody", "--data", "{}")
    assert (nobody.code, nobody.err.count("\n")) == (1, 1)
    assert nobody.err.endswith("is --url the server that has it?\n")
    refused = jobs(served, "submit", "pause", "--data", '{"input": {"x": "text"}}')
    assert refused.code == 1
    assert refused.err.endswith("(invalid_request)\n")


def test_the_key_lets_in_and_is_never_on_the_screen(tmp_path: Path) -> None:
    secret = new_secret()
    (tmp_path / "keys.txt").write_text(key_line("alice", secret) + "\n")
    with serving(tmp_path, *quick(*model("faulty.py", "Pause")), "--api-keys", str(tmp_path / "keys.txt")) as served:
        without = jobs(served, "list")
        assert without.code == 1
        assert without.err.endswith("; give a valid API key with --api-key or FOREBAY_API_KEY\n")
        by_flag = jobs(served, "submit", "pause", "--data", '{"input": {"x": [1]}}', "--api-key", secret)
        by_variable = jobs(served, "list", FOREBAY_API_KEY=secret)
        help_ = jobs(served, "list", "--help", FOREBAY_API_KEY=secret)
        wrong = jobs(served, "list", "--api-key", "fb_wrong-secret")
        assert [one.code for one in (by_flag, by_variable, help_, wrong)] == [0, 0, 0, 1]
        assert by_flag.lines[0] in by_variable.out
        watched = jobs(served, "watch", by_flag.lines[0], FOREBAY_API_KEY=secret)
        assert watched.code == 0
        for one in (by_flag, by_variable, help_, wrong, watched):
            assert secret not in one.out + one.err
            assert "wrong-secret" not in one.out + one.err


# -- watch ------------------------------------------------------------------------------------------------------------


def test_watching_prints_a_line_for_each_event_and_ends_with_the_job(served: Served) -> None:
    id = submitted(served, "steps", {"x": [2.0]})
    done = jobs(served, "watch", id)
    assert (done.code, done.err) == (0, "")
    assert done.lines[:2] == ["queued", "running attempt 1"]
    assert done.lines[-1] == "succeeded attempt 1"
    assert [line for line in done.lines if line.startswith("progress")] == [
        "progress 0%",
        "progress 33%",
        "progress 67%",
    ]
    pieces = [json.loads(line.removeprefix("output ")) for line in done.lines if line.startswith("output ")]
    assert [piece["score"] for piece in pieces] == [2.0, 4.0, 6.0]
    # Again, once it has ended.
    assert jobs(served, "watch", id).lines == done.lines


def test_watching_a_job_that_fails_tells_why(served: Served) -> None:
    [id] = failed(served)
    done = jobs(served, "watch", id)
    assert done.code == 1
    assert done.lines[-1] == "failed attempt 1"
    assert done.err.startswith(f"{id} failed: model_error: ")
    canceled = submitted(served, "pause", {"x": [1500.0]})
    jobs(served, "cancel", canceled)
    assert jobs(served, "watch", canceled).code == 1


def test_submitting_and_watching_at_once(served: Served) -> None:
    done = jobs(served, "submit", "texts", "--data", '{"input": {"text": ["a"]}}', "--watch")
    assert (done.code, done.lines[-1]) == (0, "succeeded attempt 1")
    done = jobs(served, "submit", "faulty", "--data", '{"input": {"x": [13]}}', "--watch")
    assert (done.code, done.lines[-1]) == (1, "failed attempt 1")


def test_watching_all_jobs_of_a_model(served: Served) -> None:
    ids = [submitted(served, "pause", {"x": [5000.0]}), *(submitted(served, "pause", {"x": [1.0]}) for _ in range(40))]
    process = start(served, "watch", "--model", "pause")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("watching ")
    out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (0, "")
    *lines, counted = out.splitlines()
    assert {line.split()[1] for line in lines} == {"succeeded"}
    assert ids[0] in {line.split()[0] for line in lines} <= set(ids)
    assert counted == f"{len(lines)} succeeded"
    # Nothing is left to watch: that is well.
    nothing = jobs(served, "watch", "--model", "pause")
    assert (nothing.code, nothing.lines) == (0, ["no jobs to watch"])


def test_watching_all_jobs_of_a_model_one_of_which_does_not_succeed(served: Served) -> None:
    slow, canceled, deleted = (submitted(served, "pause", {"x": [5000.0]}) for _ in range(3))
    process = start(served, "watch", "--model", "pause")
    assert process.stdout is not None
    assert process.stdout.readline() == "watching 3 jobs\n"
    served.http.post(f"/v1/jobs/{canceled}/cancel")
    served.http.delete(f"/v1/jobs/{deleted}")
    out, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert set(out.splitlines()) == {
        f"{canceled} canceled",
        f"{slow} succeeded",
        "1 canceled, 1 forgotten, 1 succeeded",
    }
    assert err == f"{canceled} canceled: request_canceled: The job was canceled.\n"


def start(served: Served, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "jobs", *arguments, "--url", f"http://127.0.0.1:{served.port}"],
        env=environment(TERM="xterm", COLUMNS="100"),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE if stdout == subprocess.PIPE else stdout,
        text=True,
    )


@pytest.mark.parametrize(
    ("of_model", "shown"), [(False, ["succeeded", "5 pieces"]), (True, ["count: ", " succeeded", "1/1"])]
)
def test_on_a_terminal_there_is_a_bar(served: Served, of_model: bool, shown: list[str]) -> None:
    slow = submitted(served, "count", {"n": 200 if of_model else 5})
    ours, theirs = pty.openpty()
    arguments = ("--model", "count") if of_model else (slow,)
    process = start(served, "watch", *arguments, stdout=theirs)
    os.close(theirs)
    screen = b""
    try:
        while piece := os.read(ours, 65536):
            screen += piece
    except OSError:
        pass  # a terminal whose other end has closed
    os.close(ours)
    assert process.wait(60) == 0
    for text in shown:
        assert text in screen.decode(), screen.decode()
    assert slow not in screen.decode()


def test_watching_outlasts_that_the_server_is_killed_and_started_again(tmp_path: Path) -> None:
    arguments = [*quick(*model("faulty.py", "Pause")), "--jobs-lease-s", "2"]
    first = Served(tmp_path, *arguments)
    watching: list[subprocess.Popen[str]] = []
    try:
        first.wait_ready()
        id = submitted(first, "pause", {"x": [2500.0]})
        watching += [start(first, "watch", id), start(first, "watch", "--model", "pause")]
        for process, line in zip(watching, ("running attempt 1\n", "watching 1 jobs\n"), strict=True):
            assert process.stdout is not None
            eventually(lambda out=process.stdout, line=line: out.readline() == line, "it is watched")  # type: ignore[misc]
        first.process.kill()
        first.process.wait(10)
        second = Served(tmp_path, *arguments, port=first.port)
        try:
            second.wait_ready()
            ends = [process.communicate(timeout=90) for process in watching]
            assert [process.returncode for process in watching] == [0, 0], ends
            second.stop()
        finally:
            second.close()
    finally:
        first.close()
        for process in watching:
            process.kill()
            process.wait()


# -- dead letters -----------------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_replayed_and_purged(served: Served) -> None:
    jobs(served, "dead", "purge", "--all", "--yes")
    first, second = failed(served, 2)
    listed = jobs(served, "dead", "list", "--model", "faulty")
    assert [line.split()[:3] for line in listed.lines] == [[id, "faulty", "model_error:"] for id in (second, first)]
    [newest] = jobs(served, "dead", "list", "--limit", "1", "--json").objects()
    assert (newest["id"], newest["error"]["code"]) == (second, "model_error")

    replayed = jobs(served, "dead", "replay", first)
    assert replayed.code == 0
    [new] = [line.removeprefix(f"{first} replayed as ") for line in replayed.lines]
    assert ended(served, new)["replay_of"] == first
    # Once more changes nothing.
    assert jobs(served, "dead", "replay", first).lines == replayed.lines

    every = jobs(served, "dead", "replay", "--all", "--model", "faulty", "--purge")
    assert [line.split()[0] for line in every.lines] == [new, second, first]
    left = {line.split()[-1] for line in every.lines} - {new}
    for id in left:
        ended(served, id)
    assert {line.split()[0] for line in jobs(served, "dead", "list").lines} == left

    done = jobs(served, "dead", "purge", left.copy().pop())
    assert done.code == 0
    asked = jobs(served, "dead", "purge", "--all", "--model", "faulty")
    assert asked.code == 1
    assert "Forget all failed jobs of model faulty" in asked.out
    assert len(jobs(served, "dead", "list").lines) == len(left) - 1
    assert jobs(served, "dead", "purge", "--all", "--yes").code == 0
    assert jobs(served, "dead", "list").lines == []


def test_only_failed_jobs_are_dead_letters(served: Served) -> None:
    id = submitted(served, "pause", {"x": [1.0]})
    ended(served, id)
    for command in ("replay", "purge"):
        done = jobs(served, "dead", command, id)
        assert (done.code, done.err) == (1, f"error: job {id} is succeeded, no dead letter (job_not_failed)\n")
    assert ended(served, id)["status"] == "succeeded"
