"""The image model on mosec: a raw body of 224x224x3 bytes in, orjson out, batch 32, wait 1 ms."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from benchmarks.peers.model_file import open_session, setting
from mosec import Server, Worker

BATCH = 32
SHAPE = (224, 224, 3)


class Images(Worker):
    """Bytes are read as they are: no decoding of any picture format."""

    def __init__(self) -> None:
        super().__init__()
        self._session = open_session()
        self._input = self._session.get_inputs()[0].name

    def deserialize(self, data: bytes) -> Any:
        return np.frombuffer(data, dtype=np.uint8).reshape(SHAPE)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps(data)

    def forward(self, data: list[Any]) -> list[Any]:
        rows = self._session.run(None, {self._input: np.stack(data)})[0]
        return [{"scores": row} for row in rows.tolist()]


def main() -> None:
    server = Server()
    server.append_worker(Images, num=int(setting("WORKERS", "2")), max_batch_size=BATCH, max_wait_time=1)
    server.run()


if __name__ == "__main__":
    main()
