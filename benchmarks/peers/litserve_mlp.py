"""The small MLP on LitServe, as its documentation shows batching: batch 32, wait 1 ms, one worker."""

from __future__ import annotations

import litserve as ls
import numpy as np
from benchmarks.peers.model_file import open_session, setting

BATCH = 32


class Mlp(ls.LitAPI):
    """decode, batch (numpy stack, LitServe's own), predict, unbatch (LitServe's own), encode."""

    def setup(self, device):
        self._session = open_session()

    def decode_request(self, request):
        return np.asarray(request["x"], dtype=np.float32)

    def predict(self, x):
        return self._session.run(None, {"x": x})[0]

    def encode_response(self, output):
        return {"y": output.tolist()}


def main() -> None:
    server = ls.LitServer(Mlp(max_batch_size=BATCH, batch_timeout=0.001), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(setting("PORT")), log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
