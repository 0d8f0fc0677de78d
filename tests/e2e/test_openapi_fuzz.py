"""A schema-driven fuzzer against every operation of a real server: nothing hangs, nothing answers what is not written
in /openapi.json, nothing is an internal error, nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.e2e.server import ROOT, Served, eventually, quick, serving, values

CHECKS = (
    "status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance,"
    "unsupported_method,allow_header_conformance,foreseen"
)
CONFIG = '[parameters]\n"path.model" = "mlp"\n"path.version" = "1"\n'
FULL_CASES = 20_000


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The same document where bodies mostly fit the model, so that cases get past the decoder."""
    schemas = document["components"]["schemas"]
    tensor = schemas["RequestInput"]["properties"]
    tensor["name"] = {"const": "x"}
    tensor["datatype"] = {"const": "FP32"}
    tensor["shape"] = {"enum": [[1, 16], [1, 16], [2, 16]]}
    tensor["data"] = {"type": "array", "items": {"type": "number"}, "minItems": 16, "maxItems": 16}
    schemas["RequestInput"]["required"] = ["name", "shape", "datatype", "data"]
    schemas["InferenceRequest"]["properties"]["inputs"].update(minItems=1, maxItems=1)
    schemas["InferenceRequest"]["properties"]["outputs"]["maxItems"] = 1
    schemas["RequestedOutput"]["properties"]["name"] = {"const": "y"}
    schemas["OneRowRequest"]["properties"]["input"] = {
        "type": "object",
        "required": ["x"],
        "properties": {"x": tensor["data"]},
        "additionalProperties": False,
    }
    for name, like in (("JobRequest", "InferenceRequest"), ("OneRowJobRequest", "OneRowRequest")):
        schemas[name]["properties"] |= schemas[like]["properties"]
    for path, operations in document["paths"].items():
        if path.endswith(("/infer", "}/jobs")):
            infer = operations["post"]
            infer["parameters"] = [part for part in infer["parameters"] if part["in"] == "path"]
            infer["requestBody"]["content"] = {"application/json": infer["requestBody"]["content"]["application/json"]}
    return document


def fuzz(served: Served, folder: Path, location: str, examples: int, seed: int, *more: str) -> tuple[int, str]:
    """Runs the fuzzer; (how many requests it made, what it printed). Fails where it found something."""
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [str(Path(sys.executable).with_name("schemathesis")), "--no-color"]
    command += ["--config-file", str(folder / "schemathesis.toml"), "run", location]
    command += ["--url", f"http://127.0.0.1:{served.port}", "-n", str(examples), "--seed", str(seed)]
    command += ["--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--request-timeout", "20"]
    command += ["--continue-on-failure", "--warnings", "off", "--suppress-health-check", "all", *more]
    environ = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.e2e.fuzz_checks", "COLUMNS": "200"}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=3600, check=False)
    found = re.search(r"([\d,]+) generated", ran.stdout)
    assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2_000:]
    assert found is not None, ran.stdout
    return int(found[1].replace(",", "")), ran.stdout


def check(served: Served, folder: Path, examples: int, seed: int) -> int:
    """Fuzzes with the document as it is and narrowed; nothing may be left behind. Returns the number of cases."""
    url = f"http://127.0.0.1:{served.port}/openapi.json"
    (folder / "narrowed.json").write_text(json.dumps(narrowed(served.http.get("/openapi.json").json())))
    fuzz(served, folder, url, 3, seed)  # what a first run allocates stays
    process = psutil.Process(served.process.pid)
    before = (process.num_fds(), process.memory_info().rss)
    cases = fuzz(served, folder, url, examples, seed)[0]
    cases += fuzz(served, folder, str(folder / "narrowed.json"), examples, seed + 1)[0]
    assert served.statistics("mlp")["inference_stats"]["success"]["count"] > examples
    assert values(served.infer("mlp", [[0.5] * 16]))
    eventually(lambda: served.in_flight("mlp") == 0, "nothing is in flight")
    eventually(lambda: process.num_fds() <= before[0] + 2, "no connection is left open")
    grown = process.memory_info().rss - before[1]
    assert grown < 64 << 20, f"{grown >> 20} MiB more memory after {cases} cases"
    assert "Traceback" not in served.output, served.output[-4_000:]
    return cases


@pytest.fixture
def alone(mlp: Path, lane: str, tmp_path: Path) -> Any:
    # Not unloaded by the fuzzer: all else would be a 404 from then on.
    arguments = (*quick(str(mlp)), "--express-lane", lane, "--model-control", "off")
    with serving(tmp_path / "server", *arguments) as served:
        yield served


@pytest.mark.timeout(400)
def test_loading_and_unloading_too(mlp: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "server", *quick(str(mlp)), "--model-control", "on") as served:
        url = f"http://127.0.0.1:{served.port}/openapi.json"
        cases, _ = fuzz(served, tmp_path, url, 25, 3, "--include-path-regex", "/v2/repository/.*")
        assert cases > 50
        assert served.http.post("/v2/repository/models/mlp/load").status_code == 200
        assert values(served.infer("mlp", [[0.5] * 16]))
        assert "Traceback" not in served.output, served.output[-4_000:]


@pytest.mark.full
@pytest.mark.timeout(400)
def test_predictions_of_torchserve_too(mlp: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "server", *quick(str(mlp)), "--torchserve-api") as served:
        url = f"http://127.0.0.1:{served.port}/openapi.json"
        cases, _ = fuzz(served, tmp_path, url, 25, 3, "--include-path-regex", "/(ping|predictions/.*)")
        assert cases > 50
        answer = served.http.post("/predictions/mlp", json=[0.5] * 16)
        assert answer.status_code == 200
        assert "Traceback" not in served.output, served.output[-4_000:]


@pytest.mark.timeout(400)
def test_every_operation_answers_as_the_document_says(alone: Served, tmp_path: Path) -> None:
    assert check(alone, tmp_path, examples=5, seed=1) > 500


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_twenty_thousand_cases(alone: Served, tmp_path: Path) -> None:
    cases, seed = 0, 100
    while cases < FULL_CASES:
        cases += check(alone, tmp_path, examples=150, seed=seed)
        seed += 2


def test_the_checks_find_what_they_look_for(alone: Served, tmp_path: Path) -> None:
    # The same run on a document that promises something else must fail, or it proves nothing.
    document = alone.http.get("/openapi.json").json()
    document["components"]["schemas"]["TraceSettings"]["properties"]["trace_level"] = {"type": "string"}
    del document["paths"]["/v2/systemsharedmemory/status"]["get"]["responses"]["501"]
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with pytest.raises(AssertionError) as caught:
        fuzz(alone, tmp_path, str(tmp_path / "wrong.json"), 2, 1)
    assert "/v2/trace/setting" in str(caught.value)
    assert "/v2/systemsharedmemory/status" in str(caught.value)
