"""MiniLM on mosec: `documented` batches up to 32, `tuned` does not batch and has orjson."""

from __future__ import annotations

from typing import Any

import orjson
from benchmarks.peers.model_file import Embedder, setting
from mosec import Server, Worker

BATCH = 32


class Documented(Worker):
    """A batch of texts in, embeddings out, JSON by the worker's own defaults."""

    def __init__(self) -> None:
        super().__init__()
        self._embed = Embedder()

    def forward(self, data: list[dict[str, Any]]) -> list[Any]:
        rows = self._embed([item["text"] for item in data])
        return [{"embedding": row} for row in rows.tolist()]


class Tuned(Worker):
    """One text at a time, orjson (which writes numpy rows directly)."""

    def __init__(self) -> None:
        super().__init__()
        self._embed = Embedder()

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: dict[str, Any]) -> Any:
        return {"embedding": self._embed([data["text"]])[0]}


def main() -> None:
    server = Server()
    workers = int(setting("WORKERS", "2"))
    if setting("STYLE") == "tuned":
        server.append_worker(Tuned, num=workers)
    else:
        server.append_worker(Documented, num=workers, max_batch_size=BATCH)
    server.run()


if __name__ == "__main__":
    main()
