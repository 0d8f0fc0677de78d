"""A teacher and a student of whole numbers, and a cascade of them."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
from tests.unit.api.conftest import FunctionEngine

from forebay.agreement.watch import AgreementWatch
from forebay.cascade.policy import Calibration, CascadeRules
from forebay.core.request import Outputs, Request, output_array
from forebay.core.tensors import Array
from forebay.engine.cascade import CascadeEngine, Opened
from forebay.models.signature import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (1,)),), (TensorSpec("by", "INT64", (1,)), TensorSpec("p", "FP32", (2,)))
)
REFUSING = msgspec.structs.replace(SIGNATURE, inputs=(TensorSpec("x", "FP32", (1,), ("nan",)),))
"""Of one that takes no NaN."""
TEACHER, STUDENT = 1, 2
"""What `by` says."""


def calibration(**changes: Any) -> Calibration:
    given: dict[str, Any] = {
        "student_name": "small",
        "threshold": 0.8,
        "agreement": 0.99,
        "upper_bound": 0.01,
        "rows": 1000,
        "answered": 800,
        "disagreed": 5,
        "output": "p",
        "form": "probabilities",
        "teacher": "large 1",
        "student": "small 1",
    }
    return Calibration(**{**given, **changes})


def rules(shadow_rate: float = 0.0, **changes: Any) -> CascadeRules:
    return CascadeRules(student="small", calibration=calibration(**changes), shadow_rate=shadow_rate)


def engine(name: str, by: int) -> FunctionEngine:
    """It is sure by as much as x says after the point; class 1 from 100 on."""

    def answer(x: Array) -> list[Array]:
        sure, above = x % 1, x >= 100
        p = np.where(above, np.concatenate([1 - sure, sure], 1), np.concatenate([sure, 1 - sure], 1))
        return [np.full((len(x), 1), by, np.int64), p.astype(np.float32)]

    made = FunctionEngine(name, SIGNATURE, answer)
    made.digest = f"{name} 1"
    return made


class Rig:
    """A cascade that is open. `teacher`, `student`: what stands behind it."""

    def __init__(self, shadow_rate: float = 0.0, signature: Signature = SIGNATURE) -> None:
        """signature: of the teacher."""
        self.teacher, self.student = engine("large", TEACHER), engine("small", STUDENT)
        self.teacher.signature = signature
        self.fallen: list[str] = []
        self.watch = AgreementWatch(0.0125, shadow_rate=shadow_rate, on_fall=self.fell, draw=lambda: 0.0)
        self.cascade = CascadeEngine(self.teacher, rules(shadow_rate), time.monotonic)
        self.cascade.open(Opened(self.student, self.watch), "on")

    def fell(self, reason: str) -> None:
        self.fallen.append(reason)
        self.cascade.shut(reason)

    def submit(self, *values: float, **more: Any) -> Request:
        request = request_of(values, **more)
        self.cascade.submit(request)
        return request


def request_of(values: tuple[float, ...], **more: Any) -> Request:
    """`wire` becomes a list of the request once it is answered."""
    now, ended = time.monotonic(), list[Request]()
    given: dict[str, Any] = {"deadline": now + 30.0, "arrived": now, "on_done": ended.append, "wire": ended}
    return Request([list(values)], ((1,),), len(values), 4 * len(values), **{**given, **more})


def said(request: Request) -> list[int]:
    """Who answered each row."""
    assert request.error is None, request.error
    assert isinstance(request.outputs, Outputs)
    answer: list[int] = output_array(request, 0, True)[:, 0].tolist()
    return answer
