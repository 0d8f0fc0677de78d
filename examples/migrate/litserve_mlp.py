"""The small MLP on LitServe, batched: MODEL=.../mlp.onnx PORT=8001 python examples/migrate/litserve_mlp.py"""

import os

import litserve as ls
import numpy as np
import onnxruntime


class Mlp(ls.LitAPI):
    def setup(self, device):
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"])

    def decode_request(self, request):
        return np.asarray(request["x"], dtype=np.float32)

    def predict(self, x):
        return self.session.run(None, {"x": x})[0]

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    server = ls.LitServer(Mlp(max_batch_size=32, batch_timeout=0.005), accelerator="cpu", timeout=30)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
