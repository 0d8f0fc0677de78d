"""TorchServe's operations on the real server, for a caller that knows nothing else."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
from tests.e2e.server import model, quick, serving

import forebay


def test_a_torchserve_caller_is_served_and_everyone_else_too(mlp: Path, tmp_path: Path) -> None:
    row = [float(value) for value in np.sin(np.linspace(0.0, 6.0, 16)).astype("f4")]
    models = [str(mlp), *model("plain.py", "Texts")]
    with serving(tmp_path, *quick(*models), "--torchserve-api", "--max-body-bytes", "100000") as served:
        url = f"http://127.0.0.1:{served.port}"
        with forebay.Client(url) as client:
            wanted = client.infer("mlp", {"x": [row]})["y"][0]
        assert httpx.get(f"{url}/ping").json() == {"status": "Healthy"}
        for content in (
            b'{"x": %a}' % row,
            b"%a" % row,
            iter([b"[%a" % row[0], b",%b]" % str(row[1:])[1:-1].encode()]),
        ):
            answer = httpx.post(f"{url}/predictions/mlp", content=content)
            assert answer.status_code == 200, answer.text
            np.testing.assert_allclose(answer.json()["y"], wanted, rtol=1e-5)
        text = httpx.put(f"{url}/predictions/texts", content=b"curl -T", headers={"content-type": "text/plain"})
        assert text.json() == {"upper": ["CURL -T"], "size": [7]}
        large = httpx.post(f"{url}/predictions/mlp", content=b" " * 200_000)
        assert (large.status_code, large.json()["code"]) == (413, 413)
        assert httpx.get(f"{url}/openapi.json").json()["paths"]["/predictions/{model}"].keys() == {"post", "put"}
