"""XGBoost itself on mosec: `documented` is its JSON worker with batching, `tuned` adds orjson and a 1 ms wait."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import xgboost
from benchmarks.peers.model_file import setting
from mosec import Server, Worker

BATCH = 32


class Documented(Worker):
    """JSON by the worker's own defaults."""

    def __init__(self) -> None:
        super().__init__()
        self._booster = xgboost.Booster(model_file=setting("MODEL"))
        self._booster.set_param({"nthread": int(setting("THREADS", "1"))})

    def forward(self, data: list[dict[str, Any]]) -> list[Any]:
        x = np.array([item["input"] for item in data], dtype=np.float32)
        second = self._booster.inplace_predict(x)
        rows = np.stack([1 - second, second], axis=1).tolist()
        return [{"label": int(row[1] > 0.5), "probabilities": row} for row in rows]


class Tuned(Documented):
    """The same worker with orjson."""

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps(data)


def main() -> None:
    server = Server()
    if setting("STYLE") == "tuned":
        server.append_worker(Tuned, num=1, max_batch_size=BATCH, max_wait_time=1)
    else:
        server.append_worker(Documented, num=1, max_batch_size=BATCH)
    server.run()


if __name__ == "__main__":
    main()
