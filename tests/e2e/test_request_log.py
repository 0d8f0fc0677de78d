"""The request log as an operator uses it: the real server, the real command, and files that are looked through."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.roles import announced, ended, house, submit
from tests.e2e.server import Served, body, eventually, model, quick, run_once, serving

from forebay.api.auth import key_line

ALL = ["--set", "*.request_log=1"]
SECRET = "ada.lovelace@example.org"
REDACT = """
import re

def redact(row):
    for part in ("inputs", "outputs"):
        for name, value in row[part].items():
            if isinstance(value, str):
                row[part][name] = re.sub(r"[\\w.]+@[\\w.]+", "***", value)
    row["parameters"] = {}
    return row
"""


def log(folder: Path, *arguments: str) -> str:
    """What `forebay log` says."""
    done = run_once(folder, "log", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_of(folder: Path, name: str, *arguments: str) -> list[dict[str, Any]]:
    """What is logged of a model."""
    out = folder / "out.jsonl"
    log(folder, "export", name, "--out", str(out), *arguments)
    return [json.loads(line) for line in out.read_text().splitlines()]


def written(served: Served, name: str, rows: int) -> None:
    """Wait until so many rows are on disk."""
    eventually(lambda: served.metric("forebay_request_log_written_rows_total", name) >= rows, "rows are written")


def all_bytes(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


def text(value: str) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [value]}]}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, mlp: Path) -> Iterator[Served]:
    """A server that logs everything, with keys, a cache and a redaction."""
    folder = tmp_path_factory.mktemp("logged")
    lines = [key_line(name, f"fb_{name}_0123456789012345678901") for name in ("acme", "other", "secret")]
    (folder / "keys.txt").write_text("\n".join(lines) + "\n")
    (folder / "redact.py").write_text(REDACT)
    settings = ["--set", "mlp.cache=exact", "--set", "*.request_log_except=secret", "--api-keys", "keys.txt"]
    settings += ["--set", "texts.request_log_redact=redact.py:redact"]
    models = [str(mlp), *model("plain.py", "Texts", "Ragged"), *model("streaming.py", "Count")]
    with serving(folder, *quick(*models), *ALL, *settings) as served:
        yield served


def ask(served: Served, name: str, content: Mapping[str, Any], key: str = "acme", path: str = "infer") -> Any:
    headers = {"authorization": f"Bearer fb_{key}_0123456789012345678901"}
    answer = served.http.post(f"/v2/models/{name}/{path}", json=content, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_rows_answers_and_tenants(logged: Served) -> None:
    row = [value / 16 for value in range(16)]
    first = ask(logged, "mlp", body([row]))
    again = ask(logged, "mlp", body([row]))  # from the cache
    assert first["outputs"] == again["outputs"]
    ask(logged, "mlp", body([row]), key="other")
    ask(logged, "mlp", body([row, [1.0] * 16]))
    ask(logged, "mlp", body([[0.5] * 16]), key="secret")
    written(logged, "mlp", 3)
    found = rows_of(logged.folder, "mlp")
    assert sorted(one["_tenant"] for one in found) == ["acme", "acme", "other"]
    mine = next(one for one in found if one["x"] == row)
    assert mine["output.y"] == first["outputs"][0]["data"]
    assert [one["x"] for one in rows_of(logged.folder, "mlp", "--tenant", "other")] == [row]
    assert rows_of(logged.folder, "mlp", "--tenant", "secret") == []
    assert logged.metric("forebay_request_log_sampled_rows_total", "mlp") == 5
    dropped = logged.http.get("/metrics").text
    assert 'forebay_request_log_dropped_rows_total{model="mlp",reason="duplicate",version="1"} 1.0' in dropped
    assert 'forebay_request_log_dropped_rows_total{model="mlp",reason="excluded",version="1"} 1.0' in dropped
    assert logged.metric("forebay_request_log_bytes", "mlp") > 0


def test_planted_data_are_in_no_file(logged: Served) -> None:
    for number in range(20):
        content = {**text(f"{number} from {SECRET}"), "parameters": {"note": SECRET}}
        (upper, _) = ask(logged, "texts", content)["outputs"]
        assert upper["data"] == [f"{number} from {SECRET}".upper()]
    written(logged, "texts", 20)
    raw = all_bytes(logged.folder / ".forebay").lower()
    assert b"19 from ***" in raw
    assert SECRET.encode() not in raw
    assert b"lovelace" not in raw
    assert SECRET not in logged.output.lower()


def test_large_split_and_streamed_requests(logged: Served) -> None:
    data = np.arange(16 * 600, dtype=np.float32).reshape(600, 16) / 1e4
    ask(logged, "mlp", body(data.tolist()), key="other")
    ask(logged, "count", {"inputs": [{"name": "n", "shape": [1], "datatype": "INT64", "data": [3]}]})
    written(logged, "count", 1)
    eventually(lambda: len(rows_of(logged.folder, "mlp", "--tenant", "other")) >= 600, "all rows are there")
    found = np.array([one["x"] for one in rows_of(logged.folder, "mlp", "--tenant", "other")], np.float32)
    assert {row.tobytes() for row in data} <= {row.tobytes() for row in found}


def test_files_are_the_owners_alone(logged: Served) -> None:
    for path in (logged.folder / ".forebay" / "requests").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_command(logged: Served, tmp_path: Path) -> None:
    ask(logged, "ragged", body([[1.0, 2.0]]))
    ask(logged, "ragged", body([[1.0]]))
    written(logged, "ragged", 2)
    place = ["--data-dir", str(logged.folder / ".forebay")]
    assert "2 rows written" in log(tmp_path, "export", "ragged", "--out", str(tmp_path / "r.npz"), *place)
    with np.load(tmp_path / "r.npz", allow_pickle=False) as found:
        assert sorted(found["x"].tolist()) == [[1, 0], [1, 2]]
    told = json.loads(log(tmp_path, "stats", "ragged", "--json", *place))
    assert [(part["tenant"], part["rows"]) for part in told] == [("acme", 2)]
    assert "ragged 1 acme: 2 rows" in log(tmp_path, "stats", *place)
    assert log(tmp_path, "clear", "ragged", "--tenant", "acme", *place).startswith("forgotten: 1 files")
    ask(logged, "ragged", body([[1.0]]))  # it may be written again, and is
    written(logged, "ragged", 3)
    assert "1 rows written" in log(tmp_path, "export", "ragged", "--out", str(tmp_path / "r.jsonl"), *place)
    for arguments, words in (
        (("export", "mpl", "--out", "x.npz", *place), "did you mean 'mlp'?"),
        (("export", "mlp", "--out", "x.xls", *place), "its suffix says no format; there are npz, parquet, jsonl, chat"),
        (("export", "mlp", "--out", "x.csv", "--format", "json", *place), "did you mean 'jsonl'?"),
        (("export", "mlp", "--out", "no/x.npz", *place), "cannot be written: No such file"),
        (("export", "mlp", "--out", "x.npz", "--data-dir", "none"), "there is none at all"),
        (("clear", *place), "name the model whose log is to be forgotten, or say --all"),
    ):
        done = run_once(tmp_path, "log", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr.replace("\n", " ")


def test_a_bad_redaction_stops_the_start(tmp_path: Path) -> None:
    models = quick(*model("plain.py", "Texts"))
    done = run_once(tmp_path, "serve", *models, *ALL, "--set", "texts.request_log_redact=none.py:redact", "--port", "0")
    assert done.returncode == 2
    assert "request_log_redact cannot be 'none.py:redact'" in done.stderr


def test_workers_write_what_web_processes_take(tmp_path: Path) -> None:
    with house(tmp_path) as built:
        web = built.web().wait_listening()
        worker = built.worker("worker", *model("plain.py", "Ragged"), *ALL)
        announced(web, "ragged")
        assert web.infer("ragged", [[1.0, 2.0]]).status_code == 200
        assert ended(web, submit(web, "ragged", [3.0, 4.0]))["status"] == "succeeded"
        written(worker, "ragged", 2)
        assert sorted(one["x"] for one in rows_of(worker.folder, "ragged")) == [[1, 2], [3, 4]]
        assert not (web.folder / ".forebay" / "requests").exists()
