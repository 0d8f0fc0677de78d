"""A model repository as an operator uses it: folders, versions, index, load and unload, watching."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.http as triton
from tests.e2e import repository
from tests.e2e.repository import WAITS, ask, control, drop, index, put, settings, states
from tests.e2e.server import MODELS, Served, body, eventually, gone, model, quick, run_once, serving
from tests.e2e.wire import request, wire
from tritonclient.utils import InferenceServerException


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    put(folder, 1)
    return folder


@pytest.fixture
def served(models: Path, tmp_path: Path) -> Iterator[Served]:
    """Serves `models`, which has version 1 at first."""
    with serving(tmp_path, *repository.arguments(models)) as server:
        yield server


# -- what is served ---------------------------------------------------------------------------------------------------


def test_a_folder_is_a_repository_beside_other_models(models: Path, mlp: Path, tmp_path: Path) -> None:
    (tmp_path / "more" / "net" / "7").mkdir(parents=True)
    (tmp_path / "more" / "net" / "7" / "any-name.onnx").write_bytes(mlp.read_bytes())
    more = [str(tmp_path / "more"), *model("plain.py", "Centred")]
    with serving(tmp_path, *repository.arguments(models, *more)) as served:
        assert ask(served) == 1
        entries = served.http.post("/v2/repository/index").json()
        assert [(entry["name"], entry["version"], entry["state"]) for entry in entries] == [
            ("centred", "1", "READY"),
            ("net", "7", "READY"),
            ("told", "1", "READY"),
        ]
        assert served.http.get("/v2/models/net").json()["versions"] == ["7"]
        assert served.http.get("/v2/models/net/versions/1").status_code == 404


def test_the_largest_version_is_the_default_and_the_others_have_their_own_urls(models: Path, tmp_path: Path) -> None:
    for version in (2, 9, 10):
        put(models, version)
    settings(models, 'version_policy = "all"\n')
    with serving(tmp_path, *repository.arguments(models)) as served:
        assert ask(served) == 10
        assert [ask(served, version=version) for version in (1, 2, 9, 10)] == [1, 2, 9, 10]
        assert served.http.get("/v2/models/told").json()["versions"] == ["1", "2", "9", "10"]
        assert served.http.get("/v2/models/told/config").json()["version_policy"] == {"all": {}}
        every = served.http.get("/v2/models/told/stats").json()["model_stats"]
        assert [(one["version"], one["inference_count"]) for one in every] == [("1", 1), ("2", 1), ("9", 1), ("10", 2)]
        one = served.http.get("/v2/models/told/versions/9/stats").json()["model_stats"]
        assert [entry["version"] for entry in one] == ["9"]
        metrics = served.http.get("/metrics").text
        assert 'forebay_requests_total{code="ok",model="told",version="10"} 2.0' in metrics
        assert 'forebay_requests_total{code="ok",model="told",version="9"} 1.0' in metrics


@pytest.mark.parametrize(
    ("policy", "served_versions"),
    [("", {"3"}), ("version_policy = { latest = 2 }", {"2", "3"}), ("version_policy = [1, 3]", {"1", "3"})],
)
def test_the_version_policy_says_which_versions(
    models: Path, tmp_path: Path, policy: str, served_versions: set[str]
) -> None:
    put(models, 2)
    put(models, 3)
    settings(models, policy)
    with serving(tmp_path, *repository.arguments(models)) as served:
        found = states(served)
        assert set(found) == {"1", "2", "3"}
        assert {version for version, state in found.items() if state == "READY"} == served_versions


def test_a_model_of_a_repository_that_fails_is_told_in_the_index_and_the_rest_is_served(
    models: Path, tmp_path: Path
) -> None:
    put(models, 1, load=repository.RAISES, name="broken")
    put(models, 1, name="odd")
    settings(models, "threads = 0\n", name="odd")
    settings(models, "version_policy = 0\n", name="worse")
    with serving(tmp_path, *repository.arguments(models)) as served:
        assert ask(served) == 1
        assert index(served, "broken")["1"][0] == "UNAVAILABLE"
        assert "no weights here" in index(served, "broken")["1"][1]
        assert "model.toml:threads" in index(served, "odd")["1"][1]
        assert "version_policy" in index(served, "worse")[""][1]
        ready = served.http.post("/v2/repository/index", json={"ready": True}).json()
        assert [entry["name"] for entry in ready] == ["told"]


def test_a_named_model_that_fails_ends_the_start_beside_a_repository_too(models: Path, tmp_path: Path) -> None:
    done = run_once(tmp_path, "serve", str(models), f"{MODELS / 'loads.py'}:Fails", "--port", "0")
    assert done.returncode == 2
    assert "weights.npy is not there" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["MODELS", "MODELS"], "two models are called 'told'"),
        (["MODELS", "--name", "x"], "is a repository"),
        (["MODELS", "--set", "tolt.threads=1"], "did you mean 'told'"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(models: Path, tmp_path: Path, given: list[str], said: str) -> None:
    done = run_once(tmp_path, "serve", *[str(models) if text == "MODELS" else text for text in given])
    assert done.returncode == 2
    assert said in done.stderr


def test_config_show_reads_what_serve_would(models: Path, tmp_path: Path) -> None:
    settings(models, "max_batch_rows = 5\nversion_policy = [1]\n")
    done = run_once(tmp_path, "config", "show", str(models), "--json")
    assert done.returncode == 0, done.stderr
    shown = {row["key"]: row["value"] for row in json.loads(done.stdout)}
    assert shown["models.told.max_batch_rows"] == 5


# -- load and unload --------------------------------------------------------------------------------------------------


def test_a_stock_client_loads_unloads_and_reads_the_index(served: Served, models: Path) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        assert client.get_model_repository_index() == [{"name": "told", "version": "1", "state": "READY", "reason": ""}]
        client.unload_model("told")
        eventually(lambda: client.get_model_repository_index()[0]["state"] == "UNAVAILABLE", "it is unloaded")
        assert not client.is_model_ready("told")
        client.unload_model("told", unload_dependents=True)  # again is harmless
        put(models, 2)
        client.load_model("told")
        assert client.is_model_ready("told", "2")
        assert not client.is_model_ready("told", "1")
        client.load_model("told", config=json.dumps({"max_batch_size": 4, "instance_group": [{"count": 2}]}))
        found = client.get_model_config("told")
        assert (found["max_batch_size"], found["instance_group"][0]["count"]) == (4, 2)
        found["max_batch_size"] = 3
        client.load_model("told", config=json.dumps(found))  # what it gave, changed
        assert client.get_model_config("told")["max_batch_size"] == 3
        client.load_model("told")
        assert client.get_model_config("told")["max_batch_size"] == 256
        for wrong in ({"files": {"file:1/model.py": b"x"}, "config": "{}"}, {"config": '{"optimization": {"a": 1}}'}):
            with pytest.raises(InferenceServerException):
                client.load_model("told", **wrong)
        with pytest.raises(InferenceServerException, match="nothing"):
            client.load_model("nothing")
    assert ask(served) == 2


def test_a_load_of_unchanged_files_loads_nothing(served: Served, models: Path) -> None:
    before = served.instances()
    os.mkfifo(models / "told" / "1" / "pipe")  # nobody writes to it, and nobody may wait for that
    assert control(served, "load").status_code == 200
    assert served.instances() == before
    file = models / "told" / "1" / "model.py"
    os.utime(file)  # another time, the same bytes
    assert control(served, "load").status_code == 200
    assert served.instances() == before
    put(models, 1, answers=5)
    assert control(served, "load").status_code == 200
    assert ask(served) == 5
    gone(before)


def test_a_changed_settings_file_is_a_change(served: Served, models: Path) -> None:
    settings(models, "max_batch_rows = 3\n")
    assert control(served, "load").status_code == 200
    assert served.http.get("/v2/models/told/config").json()["max_batch_size"] == 3


@pytest.mark.parametrize(
    ("config", "said"),
    [
        *(({"max_batch_size": most}, f"max_batch_rows.*{most}") for most in (65_537, 2**31, 2**63 - 1, 10**30)),
        ({"instance_group": [{"count": 2**31}]}, "instances.*2147483648"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": 2**63 - 1}}, "max_queue_delay_ms"),
    ],
)
def test_a_load_that_asks_for_too_much_is_refused_with_what_may_be(
    served: Served, config: dict[str, Any], said: str
) -> None:
    before = served.instances()
    answer = control(served, "load", config=json.dumps(config))
    assert (answer.status_code, answer.json()["code"]) == (400, "config_error")
    assert re.search(said, answer.json()["error"]), answer.text
    assert (ask(served), served.instances()) == (1, before)


@pytest.mark.parametrize(
    ("load", "said"),
    [(repository.RAISES, "no weights here"), ("os._exit(3)", "exit code 3"), (repository.HANGS, "load_timeout_s")],
)
def test_a_failed_load_leaves_the_old_version_and_tells_why(models: Path, tmp_path: Path, load: str, said: str) -> None:
    with serving(tmp_path, *repository.arguments(models, "--set", "told.load_timeout_s=8")) as served:
        before = served.instances()
        put(models, 2, load=load)
        answer = control(served, "load")
        assert (answer.status_code, answer.json()["code"]) == (500, "model_load_error")
        assert said in answer.json()["error"]
        assert states(served) == {"1": "READY", "2": "UNAVAILABLE"}
        assert said in index(served)["2"][1]
        assert ask(served) == 1
        put(models, 1, load=load)  # the version in service, written anew
        drop(models, 2)
        assert control(served, "load").status_code == 500
        state, reason = index(served)["1"]
        assert state == "READY"
        assert said in reason
        assert ask(served) == 1
        assert served.instances() == before
        assert served.ready()
        put(models, 2)
        assert control(served, "load").status_code == 200
        assert ask(served) == 2


def test_a_load_of_a_model_that_is_gone_tells_why(served: Served, models: Path) -> None:
    elsewhere = (models / "told").rename(models.parent / "elsewhere")
    answer = control(served, "load")
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert index(served) == {"1": ("READY", "there is no model 'told' in the repository")}
    assert ask(served) == 1
    elsewhere.rename(models / "told")
    assert control(served, "load").status_code == 200
    assert index(served) == {"1": ("READY", "")}


def test_an_instance_that_is_killed_during_a_load_fails_that_load_only(served: Served, models: Path) -> None:
    old = served.instances()
    (served.folder / "wait").touch()
    put(models, 2, load=repository.WAITS)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(control, served, "load")
        eventually((served.folder / "loading").exists, "version 2 loads")
        assert states(served) == {"1": "READY", "2": "LOADING"}
        assert ask(served) == 1
        (new,) = [process for process in served.instances() if process not in old]
        new.send_signal(signal.SIGKILL)
        answer = loading.result()
    assert answer.status_code == 500
    assert "signal 9" in answer.json()["error"]
    assert ask(served) == 1
    (served.folder / "wait").unlink()
    assert control(served, "load").status_code == 200
    assert ask(served) == 2


def test_files_that_are_written_to_during_a_load_are_not_served(served: Served, models: Path) -> None:
    (served.folder / "wait").touch()
    put(models, 2, load=repository.WAITS)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(control, served, "load")
        eventually((served.folder / "loading").exists, "version 2 loads")
        put(models, 2, answers=7)
        (served.folder / "wait").unlink()
        answer = loading.result()
    assert answer.status_code == 500
    assert "changed while" in answer.json()["error"]
    assert ask(served) == 1
    assert control(served, "load").status_code == 200
    assert ask(served) == 7


def test_what_runs_and_what_waits_is_answered_when_its_version_is_unloaded(served: Served, models: Path) -> None:
    """One request runs and others wait behind it while another version takes over; then the same for an unload."""
    for what in ("load", "unload"):
        old = served.instances()
        version = ask(served)
        put(models, version + 1)
        with ThreadPoolExecutor(20) as pool:
            runs = pool.submit(ask, served, [600.0])
            eventually(lambda: served.in_flight("told") == 1, "one runs")
            wait = [pool.submit(ask, served, [float(n)]) for n in range(1, 8)]
            eventually(lambda: served.in_flight("told") == 8, "the others wait")
            assert control(served, what).status_code == 200
            if what == "load":
                assert ask(served) == version + 1
            assert {future.result() for future in (runs, *wait)} == {version}
        gone(old)
    assert served.infer("told", [1.0]).status_code == 404
    eventually(lambda: set(states(served).values()) == {"UNAVAILABLE"}, "it is unloaded")
    eventually(lambda: "forebay_requests_total{" not in served.http.get("/metrics").text, "its metrics are gone")


@pytest.mark.parametrize("lane", ["auto", "off"])
def test_a_request_whose_body_arrives_during_a_swap_is_answered_by_the_version_that_let_it_in(
    models: Path, tmp_path: Path, lane: str
) -> None:
    content = json.dumps(body([1.0])).encode()
    head = b"POST /v2/models/told/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content)
    with serving(tmp_path, *repository.arguments(models, "--express-lane", lane)) as served:
        before = served.instances()
        for what, version in (("load", 1), ("unload", 2)):
            with wire(served.port) as connection:
                connection.send(head + content[:10])
                # The server has the head once it has answered a later request on another connection.
                assert ask(served) == version
                put(models, 2)
                assert control(served, what).status_code == 200
                connection.send(content[10:])
                reply = connection.reply()
                assert reply.status == 200
                assert reply.json()["model_version"] == str(version)
        gone(before)


def test_memory_is_given_back(served: Served, models: Path) -> None:
    loaded = repository.resident_bytes(served)
    instances = served.instances()
    weight = sum(process.memory_info().rss for process in instances)
    assert control(served, "unload").status_code == 200
    gone(instances)
    assert served.instances() == []
    eventually(lambda: repository.resident_bytes(served) < loaded - 0.9 * weight, "their memory is free")
    assert psutil.Process(served.process.pid).memory_info().rss < 1.1 * (loaded - weight)


def test_operations_on_one_model_do_not_get_into_each_others_way(served: Served, models: Path) -> None:
    put(models, 2)
    with ThreadPoolExecutor(12) as pool:
        what = ["load", "unload", "load"] * 4
        answers = list(pool.map(lambda one: control(served, one), what))
    assert {answer.status_code for answer in answers} == {200}
    assert control(served, "load").status_code == 200
    assert ask(served) == 2
    eventually(lambda: len(served.instances()) == 1, "one engine is left")


# -- who may ----------------------------------------------------------------------------------------------------------


def test_model_control_can_be_switched_off(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *repository.arguments(models, "--model-control", "off")) as served:
        for what in ("load", "unload"):
            answer = control(served, what)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert ask(served) == 1


def test_strangers_may_not_load_or_unload(models: Path, tmp_path: Path) -> None:
    open_to_all = ["--host", "0.0.0.0", "--insecure-no-auth"]
    with serving(tmp_path, *repository.arguments(models, *open_to_all)) as served:
        assert control(served, "unload").status_code == 403
        assert ask(served) == 1


def test_the_latest_version_is_loaded_first(models: Path, tmp_path: Path) -> None:
    """Or requests without a version would be answered by an older one meanwhile."""
    settings(models, 'version_policy = "all"\n')
    put(models, 2, load=WAITS)
    with serving(tmp_path, *repository.arguments(models)) as served, ThreadPoolExecutor(1) as pool:
        assert control(served, "unload").status_code == 200
        (tmp_path / "loading").unlink()
        (tmp_path / "wait").touch()
        loading = pool.submit(control, served, "load")
        eventually((tmp_path / "loading").exists, "version 2 is loading")
        assert served.infer("told", [1.0]).status_code == 404
        (tmp_path / "wait").unlink()
        assert loading.result().status_code == 200
        assert ask(served) == 2
        assert set(index(served)) == {"1", "2"}


def test_settings_for_a_model_that_may_come_later_are_no_error(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *repository.arguments(models, "--set", "sentiment.threads=1")) as served:
        served.wait_logged("settings for model 'sentiment', which is not served")
        assert ask(served) == 1


def test_a_web_page_of_another_site_may_not_unload(served: Served) -> None:
    foreign: list[dict[str, str]] = [
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        # A name of the page's own that was made to point to this machine.
        {"origin": "http://evil.example", "host": "evil.example", "sec-fetch-site": "same-origin"},
    ]
    for headers in foreign:
        answer = served.http.post("/v2/repository/models/told/unload", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), headers
    answer = served.http.post("/v2/repository/models/told/unload", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert ask(served) == 1


def test_with_keys_a_key_is_needed(models: Path, tmp_path: Path) -> None:
    key = run_once(tmp_path, "keys", "new", "op", "--file", "keys.txt")
    (secret,) = [word for word in (key.stdout + key.stderr).split() if word.startswith("fb_")]
    with serving(tmp_path, *repository.arguments(models, "--api-keys", "keys.txt")) as served:
        assert control(served, "unload").status_code == 401
        served.http.headers["authorization"] = f"Bearer {secret}"
        assert control(served, "unload").status_code == 200


@pytest.mark.parametrize(
    "name", ["..", "../told", "told/1", "%2e%2e", "%2e%2e%2ftold", "TOLD", "", "%20told", "told%00"]
)
def test_a_name_never_becomes_a_path(served: Served, name: str) -> None:
    with wire(served.port) as connection:
        reply = connection.send(request(f"/v2/repository/models/{name}/load", {})).reply()
    assert reply.status in (404, 405)
    assert ask(served) == 1


# -- watching ---------------------------------------------------------------------------------------------------------


def test_what_appears_changes_and_vanishes_is_followed(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *repository.arguments(models, watch_s=0.1)) as served:
        put(models, 2)
        eventually(lambda: ask(served) == 2, "version 2 serves")
        put(models, 2, answers=20)
        eventually(lambda: ask(served) == 20, "its new content serves")
        drop(models, 2)
        eventually(lambda: ask(served) == 1, "version 1 serves again")
        put(models, 1, name="other")
        eventually(lambda: states(served, "other") == {"1": "READY"}, "a new model serves")
        drop(models, 1, name="other")
        (models / "other").rmdir()
        eventually(lambda: states(served, "other") == {}, "it is gone")
        settings(models, "max_batch_rows = 3\n")
        config = "/v2/models/told/config"
        eventually(lambda: served.http.get(config).json()["max_batch_size"] == 3, "new settings are in effect")


def test_a_version_that_is_still_being_written_is_left_alone(models: Path, tmp_path: Path) -> None:
    whole = (put(tmp_path / "elsewhere", 2) / "model.py").read_bytes()
    with serving(tmp_path, *repository.arguments(models, watch_s=0.2)) as served:
        (models / "told" / "2").mkdir()
        stop = threading.Event()
        with (models / "told" / "2" / "model.py").open("wb", buffering=0) as file:
            for start in range(0, len(whole), 40):
                file.write(whole[start : start + 40])
                stop.wait(0.05)
        eventually(lambda: ask(served) == 2, "version 2 serves once it is complete")
        assert not served.logged("model_load_error")


def test_a_broken_version_is_tried_once_and_again_when_it_changes(models: Path, tmp_path: Path) -> None:
    with serving(tmp_path, *repository.arguments(models, watch_s=0.1)) as served:
        put(models, 2, load=repository.RAISES)
        eventually(lambda: "no weights here" in index(served).get("2", ("", ""))[1], "the reason is in the index")
        eventually(lambda: served.logged("model_load_error"), "the reason is in the log")
        failed = sum("model_load_error" in line for line in list(served.lines))
        threading.Event().wait(0.6)
        assert sum("model_load_error" in line for line in list(served.lines)) == failed
        assert ask(served) == 1
        put(models, 2)
        eventually(lambda: ask(served) == 2, "the mended version serves")


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_stop_during_a_load_ends_well(served: Served, models: Path) -> None:
    (served.folder / "wait").touch()
    put(models, 2, load=repository.WAITS)
    with ThreadPoolExecutor(1) as pool:
        loading: Any = pool.submit(control, served, "load")
        eventually((served.folder / "loading").exists, "version 2 loads")
        served.stop()
        answer = loading.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")


def test_an_empty_repository_is_served_and_filled_later(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with serving(tmp_path, *repository.arguments(models)) as served:
        assert served.http.post("/v2/repository/index").json() == []
        put(models, 1)
        assert control(served, "load").status_code == 200
        assert ask(served) == 1
        with socket.create_connection(("127.0.0.1", served.port)):
            assert served.ready()


def test_a_model_that_was_named_can_be_loaded_anew(tmp_path: Path) -> None:
    file = put(tmp_path / "elsewhere", 1) / "model.py"
    with serving(tmp_path, *quick(f"{file}:Told")) as served:
        assert ask(served) == 1
        put(tmp_path / "elsewhere", 1, answers=4)
        assert control(served, "load").status_code == 200
        assert ask(served) == 4
        assert control(served, "unload").status_code == 200
        assert served.infer("told", [1.0]).status_code == 404
