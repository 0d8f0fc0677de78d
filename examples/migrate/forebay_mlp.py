"""The small MLP as a Python model of Forebay: MODEL=.../mlp.onnx forebay serve examples/migrate/forebay_mlp.py:Mlp"""

import os

import onnxruntime

import forebay


class Mlp(forebay.Model):
    inputs = {"x": ("FP32", [16])}
    outputs = {"y": ("FP32", [3])}

    def load(self, device):
        self.files = [os.path.abspath(os.environ["MODEL"])]  # with other weights the cache begins anew
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"])

    def predict(self, x):
        return self.session.run(None, {"x": x})[0]
