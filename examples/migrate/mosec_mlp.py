"""The small MLP on mosec, batched: MODEL=.../mlp.onnx python examples/migrate/mosec_mlp.py --port 8001"""

import os

import numpy as np
import onnxruntime
from mosec import Server, Worker


class Mlp(Worker):
    def __init__(self):
        super().__init__()
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"])

    def forward(self, data):
        x = np.array([item["x"] for item in data], dtype=np.float32)
        return [{"y": row} for row in self.session.run(None, {"x": x})[0].tolist()]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Mlp, num=1, max_batch_size=32, max_wait_time=5)
    server.run()
