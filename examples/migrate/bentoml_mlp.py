"""The small MLP on BentoML, batched: MODEL=.../mlp.onnx bentoml serve bentoml_mlp:Mlp --port 8001 (in this folder)"""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 30})
class Mlp:
    def __init__(self):
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"])

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": x.astype(np.float32)})[0]
