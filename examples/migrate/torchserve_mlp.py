"""The small MLP as a TorchServe handler, batched (batchSize in its configuration).

torch-model-archiver --model-name mlp --version 1 --handler torchserve_mlp.py --extra-files mlp.onnx
"""

import os

import numpy as np
import onnxruntime


class Mlp:
    def initialize(self, context):
        folder = context.system_properties["model_dir"]
        self.session = onnxruntime.InferenceSession(os.path.join(folder, "mlp.onnx"))

    def handle(self, data, context):
        bodies = [row.get("body") or row.get("data") for row in data]
        x = np.array([body["x"] for body in bodies], dtype=np.float32)
        return [{"y": row} for row in self.session.run(None, {"x": x})[0].tolist()]
