"""The folder of the Valkey that keeps jobs, taken away beneath it, whole or in parts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

import pytest
from tests.e2e.embedded import client, until
from tests.e2e.server import body, model, quick, serving

from forebay.brokers.embedded import EmbeddedValkey
from forebay.core.errors import SetupError


@pytest.mark.parametrize(("taken", "kept"), [("", 0), ("appendonlydir", 0), ("lock", 1), ("valkey.sock", 1)])
@pytest.mark.parametrize("killed", [True, False])
async def test_what_is_taken_away_is_made_anew(
    tmp_path: Path, taken: str, kept: int, killed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "jobs"
    async with EmbeddedValkey(tmp_path) as store:
        url = store.url
        for earlier in range(2):
            async with client(store) as connection:
                assert await connection.incr("rounds") == 1 + earlier * kept
            before = store.pid
            if (folder / taken).is_dir():
                shutil.rmtree(folder / taken)
            else:
                (folder / taken).unlink()
            if killed:
                with contextlib.suppress(ProcessLookupError):  # it may have been seen already
                    os.kill(before, signal.SIGKILL)
            await until(store, "ready", before)
            assert store.url == url
        with pytest.raises(SetupError, match="in use by process"):
            await EmbeddedValkey(tmp_path).start()
        # The new files are those that it reads when it is started again.
        async with client(store) as connection:
            assert await connection.set("a", "b")
        before = store.pid
        os.kill(before, signal.SIGKILL)
        await until(store, "ready", before)
        async with client(store) as connection:
            assert await connection.mget("a", "rounds") == ["b", "2" if kept else None]
    assert sum("all jobs are lost" in message for message in caplog.messages) == (0 if kept else 2)


def test_a_folder_that_cannot_be_made_is_told_in_the_log_once(tmp_path: Path) -> None:
    (tmp_path / ".forebay").write_text("a file")
    with serving(tmp_path, *quick(*model("framing.py", "Mlp"))) as served:
        refused = [served.http.post("/v1/models/mlp/jobs", json=body([[1, 2, 3, 4]])) for _ in range(3)]
        assert [(one.status_code, one.json()["code"]) for one in refused] == [(503, "store_unavailable")] * 3
        assert served.infer("mlp", [[1, 2, 3, 4]]).status_code == 200
    told = [line for line in served.records() if line["message"].startswith("jobs are refused")]
    assert [line["level"] for line in told] == ["error"]
    assert "give another --data-dir" in told[0]["message"]
