"""The recipes that Forebay brings, in the order in which they are tried."""

from __future__ import annotations

REFERENCES = (
    "forebay.optimize.candidates.plain:AsOnnx",
    "forebay.optimize.candidates.torch_export:TorchExport",
    "forebay.optimize.candidates.fused:Fused",
    "forebay.optimize.candidates.weights8:Weights8",
    "forebay.optimize.candidates.dynamic8:Dynamic8",
    "forebay.optimize.candidates.static8:Static8",
    "forebay.optimize.candidates.static8:Static8Excluded",
    "forebay.optimize.candidates.static8:Static8Filled",
    "forebay.optimize.candidates.openvino:Openvino",
    "forebay.optimize.candidates.openvino:OpenvinoBf16",
    "forebay.optimize.candidates.openvino8:OpenvinoWeights8",
    "forebay.optimize.candidates.openvino8:OpenvinoInt8",
    "forebay.optimize.candidates.openvino8:OpenvinoInt8Excluded",
    "forebay.optimize.candidates.gpu:Fp16",
    "forebay.optimize.candidates.gpu:Tensorrt",
)
"""`module:Class`, each a `Candidate`."""
