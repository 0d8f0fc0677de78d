"""The small MLP in a FastAPI route: MODEL=.../mlp.onnx uvicorn fastapi_mlp:app --port 8001 (in this folder)"""

import os
from typing import Annotated

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel, Field

app = FastAPI()
session = onnxruntime.InferenceSession(os.environ["MODEL"])


class Wave(BaseModel):
    x: Annotated[list[float], Field(min_length=16, max_length=16)]


class Shares(BaseModel):
    y: list[float]


@app.post("/predict")
def predict(wave: Wave) -> Shares:
    x = np.array([wave.x], dtype=np.float32)
    return Shares(y=session.run(None, {"x": x})[0][0].tolist())
