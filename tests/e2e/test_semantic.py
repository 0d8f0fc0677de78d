"""The semantic cache over HTTP: calibrated and served with the real MiniLM; refusals; an embedder that is replaced."""

from __future__ import annotations

import csv
import json
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from examples.minilm import build as minilm_build
from tests.contract.jobs.redis_servers import Server, free_port, redis_server, valkey
from tests.e2e import semantic
from tests.e2e.roles import announced
from tests.e2e.roles import house as roles
from tests.e2e.semantic import ask, found, told, works
from tests.e2e.server import Served, eventually, run_once, serving

from forebay.cache.semantic.guard import GUARD_VERSION

RESET, RESET_TOO = "How do I reset my password?", "How can I reset the password?"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, float]]:
    """A server after a calibration, and the threshold that this found."""
    folder = tmp_path_factory.mktemp("semantic")
    # Not pytest's tmp_path: it would keep the 90 MB of the last three runs.
    with tempfile.TemporaryDirectory() as built:
        minilm_build.build(Path(built))
        embedder = semantic.minilm(folder, Path(built))
        pairs, out = folder / "pairs.csv", folder / "calibration.json"
        with pairs.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["a", "b", "same"])
            writer.writerow([RESET, "How could I reset my password?", "yes"])
            writer.writerow(["Where is my parcel?", "Where is my package?", "yes"])
            writer.writerows([f"Where is order {n}?", f"Where is order {n + 1}?", "no"] for n in range(4000, 4080))
        said = run_once(
            folder, "cache", "calibrate", "--pairs", str(pairs), "--budget", "5%", "--embedder", embedder,
            "--out", str(out),
        )  # fmt: skip
        assert said.returncode == 0, said.stdout + said.stderr
        arguments = semantic.with_embedder(embedder, "minilm", "--set", f"answers.semantic_calibration={out}")
        with serving(folder, *arguments) as served:
            yield served, json.loads(out.read_bytes())["threshold"]


def test_a_question_that_asks_the_same_gets_the_kept_answer(house: tuple[Served, float]) -> None:
    served, threshold = house
    assert told(served) == f"on: cosine from {threshold:.4f} (calibrated), vectors by minilm"
    assert found(ask(served, RESET)) == ("miss", RESET.upper())
    near = ask(served, RESET_TOO)
    assert found(near) == ("semantic", RESET.upper())
    assert threshold <= float(near.headers["x-cache-score"]) <= 1.0
    exact = ask(served, RESET)
    assert found(exact) == ("exact", RESET.upper())
    assert near.headers["x-cache-entry"] == exact.headers["x-cache-entry"]
    assert int(near.headers["age"]) >= 0
    assert RESET_TOO not in semantic.runs(served)
    lookups = served.http.get("/metrics").text
    assert 'forebay_semantic_lookups_total{model="answers",outcome="semantic",version="1"}' in lookups


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I turn on the alarm?", "How do I turn off the alarm?"),
        ("Where is order 48213?", "Where is order 48231?"),
        ("Can I return it after 30 days?", "Can I return it after 13 days?"),
        ("Is my flight to Oslo on time?", "Is my flight to Rome on time?"),
    ],
)
def test_what_only_looks_alike_is_run(house: tuple[Served, float], one: str, other: str) -> None:
    served, _ = house
    assert [found(ask(served, text)) for text in (one, other)] == [("miss", one.upper()), ("miss", other.upper())]


def test_callers_say_what_they_want(house: tuple[Served, float]) -> None:
    served, _ = house
    ask(served, "Do you ship to Canada?")
    near = "do you ship to Canada"
    assert found(ask(served, near))[0] == "semantic"
    assert found(ask(served, near, {"cache-control": "no-store"})) == ("", near.upper())
    assert found(ask(served, near, {"cache-control": "max-age=0"}))[0] == "miss"
    assert ask(served, "Do you ship to Mexico?", {"cache-control": "only-if-cached"}).status_code == 504


def test_a_job_gets_the_answer_to_a_near_text(house: tuple[Served, float]) -> None:
    served, _ = house
    ask(served, "Do you sell gift cards?")
    body = {"input": {"text": ["do you sell gift cards"]}}
    answer = served.http.post("/v1/models/answers/jobs", json=body, headers={"prefer": "wait=20"})
    job = answer.json()
    assert (job["status"], job["cached"], job["metrics"]) == ("succeeded", True, {})
    assert job["output"]["output"]["answer"] == ["DO YOU SELL GIFT CARDS?"]


def test_two_at_once_run_once(house: tuple[Served, float]) -> None:
    served, _ = house
    text = "Which colours does the teapot come in?"
    with ThreadPoolExecutor(16) as pool:
        answers = [found(one) for one in pool.map(lambda _: ask(served, text), range(16))]
    assert {answer for _, answer in answers} == {text.upper()}
    assert semantic.runs(served).count(text) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "answers.semantic_embedder=leters"], "'leters' is not served; did you mean 'letters'?"),
        (["--set", "answers.semantic_embedder=none"], "needs a served model that makes vectors of texts"),
        ([], "without a calibration may serve wrong answers"),
        (["--set", "answers.semantic_calibration=other.json"], "made with another embedder than the one served"),
    ],
    ids=["unknown embedder", "no embedder", "no calibration", "calibrated for another"],
)
def test_what_is_wrong_stops_the_start(tmp_path: Path, more: list[str], message: str) -> None:
    calibration = {
        "threshold": 0.9, "budget": 0.05, "upper_bound": 0.04, "false_hits": 0, "different_pairs": 100, "true_hits": 9,
        "same_pairs": 10, "embedder": "another", "guard": GUARD_VERSION,
    }  # fmt: skip
    (tmp_path / "other.json").write_text(json.dumps(calibration))
    if "leters" in str(more):
        more = [*more, "--set", "answers.semantic_uncalibrated=true"]
    arguments = semantic.with_embedder(semantic.letters(tmp_path), "letters", *more)
    ended = run_once(tmp_path, "serve", *arguments, "--port", "0")
    assert ended.returncode == 2
    assert message in ended.stdout + ended.stderr


def test_an_embedder_that_is_replaced_under_load(tmp_path: Path) -> None:
    embedder = semantic.letters(tmp_path)
    arguments = semantic.with_embedder(embedder, "letters", "--set", "answers.semantic_uncalibrated=true")
    with serving(tmp_path, *arguments) as served:
        assert found(ask(served, RESET))[0] == "miss"
        assert found(ask(served, RESET.lower()))[0] == "semantic"
        stop, answers = threading.Event(), list[httpx.Response]()

        def client(number: int) -> None:
            count = 0
            while not stop.is_set():
                answers.append(ask(served, f"Where is order {number} {count}?"))
                count += 1

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client, number) for number in range(4)]
            for change in range(2):
                path = tmp_path / "letters.py"
                path.write_text(f"{path.read_text()}\n# {change}\n")
                assert served.http.post("/v2/repository/models/letters/load").status_code == 200
            stop.set()
            for one in clients:
                one.result()
        assert {answer.status_code for answer in answers} == {200}
        numbers = iter(range(10_000))
        eventually(lambda: works(served, next(numbers)), "it goes on with the new one")
        # Vectors of other files say nothing of those that come now.
        assert found(ask(served, f" {RESET} "))[0] == "miss"
        assert served.http.post("/v2/repository/models/letters/unload").status_code == 200
        eventually(lambda: told(served).startswith("off: answers: semantic_embedder = 'letters'"), "it is told")
        assert found(ask(served, "Is it off?")) == ("miss", "IS IT OFF?")


def test_a_web_process_whose_embedder_runs_at_another_worker(tmp_path: Path) -> None:
    with roles(tmp_path) as built:
        web = built.web().wait_listening()
        settings = ["--set", "answers.semantic_embedder=letters", "--set", "answers.semantic_uncalibrated=true"]
        built.worker("answers", semantic.ANSWERS, *semantic.SEMANTIC, *settings)
        announced(web, "answers")
        assert told(web).startswith("off: answers: semantic_embedder = 'letters' is not served")
        embedder = built.worker("letters", semantic.letters(tmp_path))
        numbers = iter(range(10_000))
        eventually(lambda: works(web, next(numbers)), "near texts are found")
        embedder.stop()
        assert [found(ask(web, text)) for text in ("Is it there?", "is it there")] == [
            ("miss", "IS IT THERE?"),
            ("miss", "IS IT THERE"),
        ]


def test_two_servers_that_share_answers_and_texts(tmp_path: Path) -> None:
    binary = redis_server()
    if binary is None:
        pytest.skip("there is no redis-server on this machine")
    with Server(binary, free_port()) as store:
        if not store.ask("COMMAND LIST", "FILTERBY", "PATTERN", "vadd"):
            pytest.skip("this Redis has no vector sets")
        more = ["--set", "answers.semantic_uncalibrated=true", "--set", "answers.semantic_index=store"]
        embedder = semantic.letters(tmp_path)
        arguments = [*semantic.with_embedder(embedder, "letters", *more), "--cache-store", store.url]
        with serving(tmp_path / "one", *arguments) as one, serving(tmp_path / "two", *arguments) as two:
            assert found(ask(one, RESET)) == ("miss", RESET.upper())
            numbers = iter(range(10_000))

            def crosses() -> bool:
                text = f"Is hall {next(numbers)} open today?"
                ask(one, text)
                return found(ask(two, text.lower())) == ("semantic", text.upper())

            eventually(crosses, "what one has answered the other finds")
            assert store.ask("KEYS", "*{semantic}:t:*")
            assert two.http.delete("/v1/cache?model=answers").json()["store"] > 0
            assert not store.ask("KEYS", "*{semantic}:?:*"), "texts go with their answers"
            assert found(ask(one, RESET)) == ("miss", RESET.upper())
            eventually(crosses, "and they come again")
            store.kill()
            for number in range(20):
                assert found(ask(one, f"Is gate {number} open?"))[0] == "miss"
            assert found(ask(one, RESET)) == ("exact", RESET.upper())
            store.start()
            eventually(lambda: works(one, next(numbers)), "near texts are found again")


def test_an_index_that_cannot_be_had_stops_the_start(tmp_path: Path) -> None:
    more = ["--set", "answers.semantic_uncalibrated=true", "--set", "answers.semantic_index=store"]
    arguments = semantic.with_embedder(semantic.letters(tmp_path), "letters", *more)
    with Server(valkey(), free_port()) as store:
        for where, message in (
            ([], 'semantic_index = "store" needs a store of cached answers: --cache-store redis://'),
            (["--cache-store", store.url], "has no vector sets, which come with Redis 8.0"),
        ):
            ended = run_once(tmp_path, "serve", *arguments, *where, "--port", "0")
            assert ended.returncode == 2
            assert message in ended.stdout + ended.stderr
