"""The cache over HTTP, with the express lane and without: hits, misses, headers, the forms of one answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.e2e.server import Served, eventually, model, quick, run_once, serving
from tests.models.tallied import FIRST, RAISES

CACHED = ["--set", "tallied.cache=exact", "--set", "tallied.deterministic=true"]


@pytest.fixture(scope="module", params=["auto", pytest.param("off", marks=pytest.mark.full)])
def cached(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a model that says which run an answer is from."""
    folder = tmp_path_factory.mktemp("cached")
    arguments = [*quick(*model("tallied.py", "Tallied")), *CACHED, "--express-lane", request.param]
    with serving(folder, *arguments) as served:
        yield served


def row(value: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}]}


def ask(served: Served, value: float, control: str = "", **more: Any) -> httpx.Response:
    headers = {"cache-control": control} if control else {}
    return served.http.post("/v2/models/tallied/infer", json={**row(value), **more}, headers=headers)


def found(answer: httpx.Response) -> tuple[str, float, int]:
    """What the cache did, the answer, and the run that it is from."""
    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output["data"][0] for output in answer.json()["outputs"]}
    return answer.headers.get("x-cache", ""), outputs["y"], outputs["run"]


def runs(served: Served, value: float) -> int:
    """How often the model ran for this value."""
    lines = (served.folder / "tallied.runs").read_text().splitlines()
    return sum(float(line.split()[0]) == value for line in lines)


def test_a_hit_is_the_same_answer(cached: Served) -> None:
    first = found(ask(cached, FIRST + 1))
    assert first[:2] == ("miss", 2 * FIRST + 3)
    for _ in range(3):  # by the key, then by the body that is remembered
        assert found(ask(cached, FIRST + 1)) == ("exact", *first[1:])
    assert runs(cached, FIRST + 1) == 1


def test_a_hit_tells_its_entry_and_age(cached: Served) -> None:
    ask(cached, FIRST + 2)
    hits = [ask(cached, FIRST + 2) for _ in range(3)]
    assert len({hit.headers["x-cache-entry"] for hit in hits}) == 1
    assert len(hits[0].headers["x-cache-entry"]) == 43
    assert all(int(hit.headers["age"]) >= 0 for hit in hits)
    assert "x-cache-entry" not in ask(cached, FIRST + 3).headers


def test_every_form_of_an_answer_comes_from_one_entry(cached: Served) -> None:
    value = FIRST + 4
    run = found(ask(cached, value))[2]
    with_id = ask(cached, value, id="mine")
    assert (found(with_id), with_id.json()["id"]) == (("exact", 2 * value + 1, run), "mine")
    short = cached.http.post("/v2/models/tallied/infer", json={"input": {"x": [value]}})
    assert short.json()["output"] == {"y": [2 * value + 1], "run": [run]}
    assert short.headers["x-cache"] == "exact"
    generated = cached.http.post("/v2/models/tallied/generate", json={"x": value})
    assert (generated.json()["run"], generated.headers["x-cache"]) == (run, "exact")
    head = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}'
    for _ in range(2):
        binary = cached.http.post(
            "/v2/models/tallied/infer",
            content=head + np.float32(value).tobytes(),
            headers={"inference-header-content-length": str(len(head))},
        )
        assert found(binary) == ("exact", 2 * value + 1, run)
    asked = ask(cached, value, parameters={"binary_data_output": True})
    assert asked.headers["x-cache"] == "exact"
    assert asked.content.endswith(np.float32(2 * value + 1).tobytes() + np.int64(run).tobytes())
    assert runs(cached, value) == 1


def test_other_outputs_and_parameters_are_other_requests(cached: Served) -> None:
    value = FIRST + 5
    ask(cached, value)
    only_y = [ask(cached, value, outputs=[{"name": "y"}]) for _ in range(2)]
    assert [answer.headers["x-cache"] for answer in only_y] == ["miss", "exact"]
    assert [[output["name"] for output in answer.json()["outputs"]] for answer in only_y] == [["y"], ["y"]]
    assert ask(cached, value, parameters={"temperature": 1}).headers["x-cache"] == "miss"
    assert ask(cached, value, parameters={"temperature": 1.0}).headers["x-cache"] == "miss"
    assert ask(cached, value, parameters={"temperature": 1, "priority": 2}).headers["x-cache"] == "exact"


def test_cache_control(cached: Served) -> None:
    value = FIRST + 6
    missing = ask(cached, value, "only-if-cached")
    assert (missing.status_code, missing.json()["code"]) == (504, "cache_miss")
    first = found(ask(cached, value))
    assert found(ask(cached, value, "only-if-cached")) == ("exact", *first[1:])
    passed_by = found(ask(cached, value, "no-store"))
    assert (passed_by[0], passed_by[2] != first[2]) == ("", True)
    assert found(ask(cached, value)) == ("exact", *first[1:])
    again = found(ask(cached, value, "no-cache"))
    assert (again[0], again[2] != first[2]) == ("miss", True)
    assert found(ask(cached, value)) == ("exact", *again[1:])
    assert found(ask(cached, value, "only-if-cached, no-store")) == ("exact", *again[1:])
    unknown = FIRST + 0.5
    for control in ("only-if-cached, no-store", "only-if-cached, no-cache"):
        assert ask(cached, unknown, control).status_code == 504
    url, only = "/v2/models/tallied/generate_stream", {"cache-control": "only-if-cached"}
    pieces = cached.http.post(url, json={"x": value}, headers=only)
    assert (pieces.status_code, pieces.json()["code"]) == (504, "cache_miss")
    assert runs(cached, unknown) == 0


def test_bad_tags_are_refused(cached: Served) -> None:
    answer = cached.http.post("/v2/models/tallied/infer", json=row(FIRST), headers={"cache-tag": "x" * 200})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_an_error_is_told_again_by_the_model(cached: Served) -> None:
    before = runs(cached, RAISES)
    for _ in range(2):
        answer = ask(cached, RAISES)
        assert (answer.status_code, answer.json()["code"]) == (500, "model_error")
    assert runs(cached, RAISES) > before + 1


def test_a_stampede_runs_once(cached: Served) -> None:
    value = FIRST + 7
    (cached.folder / "hold").touch()
    try:
        with ThreadPoolExecutor(64) as pool:
            answers = [pool.submit(ask, cached, value) for _ in range(64)]
            eventually(lambda: runs(cached, value), "it runs")
            (cached.folder / "hold").unlink()
            told = [found(answer.result()) for answer in answers]
    finally:
        (cached.folder / "hold").unlink(missing_ok=True)
    assert runs(cached, value) == 1
    assert len({one[1:] for one in told}) == 1
    assert sum(one[0] == "miss" for one in told) == 1


def test_what_is_counted(cached: Served) -> None:
    value = FIRST + 8
    before = [cached.metric("forebay_cache_saved_seconds_total", "tallied"), hits(cached)]
    for _ in range(4):
        ask(cached, value)
    assert hits(cached) == before[1] + 3
    assert cached.metric("forebay_cache_saved_seconds_total", "tallied") > before[0]
    statistics = cached.statistics("tallied")["inference_stats"]
    assert statistics["cache_hit"]["count"] >= 3
    assert statistics["cache_miss"]["count"] >= 1


def hits(served: Served) -> int:
    lines = served.http.get("/metrics").text.splitlines()
    (line,) = (one for one in lines if one.startswith("forebay_cache_answers_total") and 'outcome="exact"' in one)
    return int(float(line.rsplit(" ", 1)[1]))


def test_forgetting_answers(cached: Served) -> None:
    values = [FIRST + 20, FIRST + 21, FIRST + 22]
    url = "/v2/models/tallied/infer"
    for value in values:
        cached.http.post(url, json=row(value), headers={"cache-tag": f"t{value:g}, every"})
    entry = ask(cached, values[0]).headers["x-cache-entry"]
    told = cached.http.get(f"/v1/cache/{entry}").json()
    assert (told["id"], told["model"], told["version"], told["where"]) == (entry, "tallied", "1", "memory")
    assert told["tags"] == ["every", f"t{values[0]:g}"]
    assert 3000 < told["age_s"] + told["expires_in_s"] <= 3600

    def kept() -> list[bool]:
        return [ask(cached, value, "only-if-cached").status_code == 200 for value in values]

    assert cached.http.delete(f"/v1/cache/{entry}").json() == {"memory": 1, "store": None}
    assert kept() == [False, True, True]
    again = cached.http.delete(f"/v1/cache/{entry}")
    assert (again.status_code, again.json()["code"]) == (404, "cache_entry_not_found")
    assert again.headers["content-type"] == "application/problem+json"
    assert cached.http.get(f"/v1/cache/{entry}").status_code == 404
    assert cached.http.delete("/v1/cache", params={"tag": f"t{values[1]:g}"}).json()["memory"] == 1
    assert kept() == [False, False, True]
    assert cached.http.delete("/v1/cache", params={"model": "other"}).json()["memory"] == 0
    assert cached.http.delete("/v1/cache", params={"model": "tallied", "version": "2"}).json()["memory"] == 0
    assert cached.http.delete("/v1/cache", params={"model": "tallied", "version": "1"}).json()["memory"] >= 1
    assert kept() == [False, False, False]
    cached.http.post(url, json=row(values[0]), headers=[(b"cache-tag", "prix-é".encode())])
    assert cached.http.delete("/v1/cache", params={"tag": "prix-é"}).json()["memory"] == 1
    assert cached.http.get("/v1/cache").json()["memory"] == {"entries": 0, "bytes": 0}


@pytest.mark.parametrize("query", [{"models": "x"}, {"model": ""}, {"version": "1"}])
def test_what_to_forget_must_be_clear(cached: Served, query: dict[str, str]) -> None:
    ask(cached, FIRST + 30)
    answer = cached.http.delete("/v1/cache", params=query)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    hit = ask(cached, FIRST + 30, "only-if-cached")
    beside = cached.http.delete(f"/v1/cache/{hit.headers['x-cache-entry']}", params=query)
    assert (beside.status_code, beside.json()["code"]) == (400, "invalid_request")
    assert ask(cached, FIRST + 30, "only-if-cached").status_code == 200


def test_the_command_line(cached: Served) -> None:
    def cache(*arguments: str) -> tuple[int, str]:
        done = run_once(cached.folder, "cache", *arguments, "--url", f"http://127.0.0.1:{cached.port}")
        return done.returncode, done.stdout + done.stderr

    ask(cached, FIRST + 40)
    entry = ask(cached, FIRST + 40).headers["x-cache-entry"]
    code, out = cache("stats")
    assert code == 0
    assert "tallied 1: " in out
    assert "store    none" in out
    assert json.loads(cache("stats", "--json")[1])["models"][0]["model"] == "tallied"
    assert f"id           {entry}" in cache("inspect", entry)[1]
    assert cache("clear", entry) == (0, "forgotten: 1 in memory\n")
    code, out = cache("inspect", entry)
    assert (code, "there is no cached answer" in out) == (1, True)
    assert cache("clear", "--model", "nothing") == (0, "forgotten: 0 in memory\n")


def test_large_bodies_are_cached_too(tmp_path: Path) -> None:
    arguments = [*quick(*model("plain.py", "Ragged")), "--set", "ragged.cache=exact"]
    with serving(tmp_path, *arguments) as served:
        data = list(range(40_000))
        body = {"inputs": [{"name": "x", "shape": [1, len(data)], "datatype": "FP32", "data": data}]}
        first, second = (served.http.post("/v2/models/ragged/infer", json=body) for _ in range(2))
        assert [first.headers["x-cache"], second.headers["x-cache"]] == ["miss", "exact"]
        assert first.json() == second.json()
        compressed = served.http.post("/v2/models/ragged/infer", json=body, headers={"accept-encoding": "gzip"})
        assert (compressed.headers["content-encoding"], compressed.json()) == ("gzip", first.json())
        assert compressed.headers["x-cache"] == "exact"


def test_an_answer_to_a_body_that_is_read_in_steps_tells_of_the_cache(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("tallied.py", "Tallied")), *CACHED, "--decode-off-loop-bytes", "1") as served:
        answers = [ask(served, FIRST + 5) for _ in range(2)]
        assert [found(answer)[0] for answer in answers] == ["miss", "exact"]
        assert "age" in answers[1].headers


def test_tenants_are_apart(tmp_path: Path) -> None:
    import hashlib

    lines = ",".join(f"{name}:{hashlib.sha256(secret.encode()).hexdigest()}" for name, secret in KEYS.items())
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "keys.txt").write_text(lines.replace(",", "\n") + "\n")
    arguments = [*quick(*model("tallied.py", "Tallied")), *CACHED, "--api-keys", str(folder / "keys.txt")]
    with serving(tmp_path, *arguments) as served:

        def of(name: str) -> tuple[str, float, int]:
            headers = {"authorization": f"Bearer {KEYS[name]}"}
            return found(served.http.post("/v2/models/tallied/infer", json=row(FIRST), headers=headers))

        first = of("alice")
        assert first[0] == "miss"
        assert of("bob")[0] == "miss"
        assert [of("alice") for _ in range(3)] == [("exact", *first[1:])] * 3
        assert of("bob")[2] != first[2]
        mine = {"authorization": f"Bearer {KEYS['alice']}"}
        other = {"authorization": f"Bearer {KEYS['bob']}"}
        hit = served.http.post("/v2/models/tallied/infer", json=row(FIRST), headers=mine)
        place = f"/v1/cache/{hit.headers['x-cache-entry']}"
        for refused in (served.http.get(place, headers=other), served.http.delete(place, headers=other)):
            assert (refused.status_code, refused.json()["code"]) == (404, "cache_entry_not_found")
        assert served.http.delete("/v1/cache", headers=other).json()["memory"] == 1
        assert served.http.get(place, headers=mine).status_code == 200
        assert served.http.get(place).status_code == 401


KEYS = {"alice": "secret-of-alice", "bob": "secret-of-bob"}


def test_a_job_whose_answer_is_kept_is_done_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, *quick(*model("tallied.py", "Tallied")), *CACHED) as served:
        run = found(ask(served, FIRST))[2]

        def submit(**options: Any) -> httpx.Response:
            return served.http.post("/v1/models/tallied/jobs", json={"input": {"x": [FIRST]}, **options})

        hit = submit()
        assert hit.status_code == 200, hit.text
        assert (hit.json()["status"], hit.json()["cached"], hit.json()["metrics"]) == ("succeeded", True, {})
        assert hit.json()["output"]["output"] == {"y": [2 * FIRST + 1], "run": [run]}
        entry = ask(served, FIRST).headers["x-cache-entry"]
        assert (hit.headers["x-cache"], hit.headers["x-cache-entry"]) == ("exact", entry)
        assert 0 <= int(hit.headers["age"]) < 60
        assert served.http.get(f"/v1/jobs/{hit.json()['id']}").json() == hit.json()
        for word in ("off", "refresh"):
            answer = submit(cache=word)
            assert (answer.status_code, answer.json()["cached"]) == (202, False)
            done = served.http.get(answer.headers["location"], headers={"prefer": "wait=20"}).json()
            assert (done["status"], done["cached"]) == ("succeeded", False)
            assert done["output"]["output"]["run"] != [run]
        assert found(ask(served, FIRST))[2] == done["output"]["output"]["run"][0]
        other = served.http.post("/v1/models/tallied/jobs", json={"input": {"x": [FIRST + 1]}})
        assert other.status_code == 202
        eventually(lambda: served.http.get(other.headers["location"]).json()["status"] == "succeeded", "it ends")
        assert found(ask(served, FIRST + 1))[0] == "exact"  # what a job has computed is kept too
        jobs_heed_cache_control(served)


Way = tuple[str, dict[str, str]]
"""A path, and headers."""


def jobs_heed_cache_control(served: Served) -> None:
    """Whichever way a job is asked for, by the express lane or past it."""
    jobs, infer, known, unknown = "/v1/models/tallied/jobs", "/v2/models/tallied/infer", FIRST, FIRST + 2
    ways: list[Way] = [(jobs, {}), (jobs, {"prefer": "wait=0"}), (infer, {"prefer": "respond-async"})]

    def post(way: Way, value: float, control: str, **more: Any) -> httpx.Response:
        path, headers = way
        return served.http.post(path, json={**row(value), **more}, headers={**headers, "cache-control": control})

    for way in ways:
        ask(served, known)
        missing = post(way, unknown, "only-if-cached")
        assert (missing.status_code, missing.json()["code"]) == (504, "cache_miss")
        for control in ("only-if-cached", "max-age=600"):
            hit = post(way, known, control)
            assert (hit.status_code, hit.headers["x-cache"]) == (200, "exact"), hit.text
            assert len(hit.headers["x-cache-entry"]) == 43
        for control in ("no-cache", "no-store", "max-age=0"):
            before = runs(served, known)
            ran = post(way, known, control)
            assert (ran.status_code, "x-cache" in ran.headers) == (202, False)
            done = served.http.get(ran.headers["location"], headers={"prefer": "wait=20"}).json()
            assert (done["status"], done["cached"], runs(served, known)) == ("succeeded", False, before + 1)
    assert runs(served, unknown) == 0
    assert post(ways[0], known, "no-cache", cache="use").status_code == 200  # the job's own word goes before
    many = {"jobs": [row(known), row(unknown), {**row(known), "cache": "off"}]}
    batch = served.http.post(f"{jobs}/batch", json=many, headers={"cache-control": "only-if-cached"}).json()["jobs"]
    assert (batch[0]["cached"], batch[1]["code"], batch[2]["cached"]) == (True, "cache_miss", False)
    tagged = served.http.post(jobs, json=row(unknown), headers={"cache-tag": "mine"})
    served.http.get(tagged.headers["location"], headers={"prefer": "wait=20"})
    assert ask(served, unknown, "only-if-cached").status_code == 200
    assert served.http.delete("/v1/cache", params={"tag": "mine"}).json()["memory"] == 1
    refused = served.http.post(jobs, json=row(unknown), headers={"cache-tag": "x" * 200})
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")


WEIGHED = """
from pathlib import Path

import forebay


class {name}(forebay.Model):
    inputs = {{"x": ("FP32", [1])}}
    outputs = {{"y": ("FP32", [1])}}
    files = {files}

    def load(self, device):
        self.weight = float(Path(__file__).with_name("weights.txt").read_text())

    def predict(self, x):
        return x * self.weight
"""


def test_answers_of_other_weights_are_not_served(tmp_path: Path) -> None:
    """In a repository whatever lies in the version's folder; beside a lone file what its class declares."""
    folders = {"kept": tmp_path / "models" / "kept" / "1", "lone": tmp_path / "lone"}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "weights.txt").write_text("2")
        text = WEIGHED.format(name=name.capitalize(), files='["weights.txt"]' if name == "lone" else "()")
        (folder / "model.py").write_text(text)
    arguments = [str(tmp_path / "models"), f"{folders['lone'] / 'model.py'}:Lone"]
    with serving(tmp_path, *quick(*arguments), "--set", "*.cache=exact") as served:

        def answer(name: str) -> tuple[str, float]:
            found = served.http.post(f"/v2/models/{name}/infer", json=row(3.0))
            return found.headers["x-cache"], found.json()["outputs"][0]["data"][0]

        for name, folder in folders.items():
            assert [answer(name) for _ in range(2)] == [("miss", 6.0), ("exact", 6.0)]
            (folder / "weights.txt").write_text("10")
            assert served.http.post(f"/v2/repository/models/{name}/load").status_code == 200
            assert [answer(name) for _ in range(2)] == [("miss", 30.0), ("exact", 30.0)], name
        (folders["lone"] / "weights.txt").unlink()
        refused = served.http.post("/v2/repository/models/lone/load")
        assert (refused.status_code, refused.json().get("code")) == (500, "model_load_error"), refused.text
        assert answer("lone") == ("exact", 30.0)  # what was loaded goes on
