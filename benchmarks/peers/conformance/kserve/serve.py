"""The echo model of the conformance table for KServe's Python server. Run: python serve.py (on 127.0.0.1:8751)."""

import functools
from typing import Any

import kserve.protocol.rest.server as rest
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid

INPUTS = {"x": "FP32", "n": "INT64", "t": "BYTES"}
NAMES = {"x": "same", "n": "count", "t": "text"}


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1, 1 if datatype == "BYTES" else 2]}


class Echo(Model):
    """Gives its three inputs back. Choosing outputs, and their binary form, is the model's own work in KServe."""

    def load(self) -> bool:
        """Nothing to load."""
        self.ready = True
        return True

    def get_input_types(self) -> list[dict[str, Any]]:
        """For the model's metadata."""
        return [_tensor(name, datatype) for name, datatype in INPUTS.items()]

    def get_output_types(self) -> list[dict[str, Any]]:
        """For the model's metadata."""
        return [_tensor(NAMES[name], datatype) for name, datatype in INPUTS.items()]

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Decodes and encodes each tensor."""
        wanted = {entry.name for entry in payload.request_outputs or []} or set(NAMES.values())
        outputs = []
        for entry in payload.inputs:
            if NAMES[entry.name] in wanted:
                value = entry.as_numpy()
                output = InferOutput(NAMES[entry.name], list(value.shape), entry.datatype)
                output.set_data_from_numpy(value, binary_data=False)
                outputs.append(output)
        return InferResponse(payload.id or generate_uuid(), self.name, outputs)


if __name__ == "__main__":
    # KServe listens on every interface; here only on this machine's own.
    rest.uvicorn.Config = functools.partial(
        lambda made, *args, **kwargs: made(*args, **{**kwargs, "host": "127.0.0.1"}), rest.uvicorn.Config
    )
    model = Echo("echo")
    model.load()
    ModelServer(http_port=8751, enable_grpc=False, workers=1).start([model])
