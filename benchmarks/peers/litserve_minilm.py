"""MiniLM on LitServe, as its documentation shows batching: batch 32, wait 10 ms."""

from __future__ import annotations

import litserve as ls
from benchmarks.peers.model_file import Embedder, setting

BATCH = 32


class MiniLm(ls.LitAPI):
    """Texts in, embeddings out."""

    def setup(self, device):
        self._embed = Embedder()

    def decode_request(self, request):
        return request["text"]

    def predict(self, x):
        return self._embed(x)

    def encode_response(self, output):
        return {"embedding": output.tolist()}


def main() -> None:
    api = MiniLm(max_batch_size=BATCH, batch_timeout=0.01)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=int(setting("WORKERS", "2")), timeout=120)
    server.run(host="127.0.0.1", port=int(setting("PORT")), log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
