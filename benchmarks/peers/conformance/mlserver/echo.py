"""The echo model of the conformance table for MLServer, with its own codecs. Run in this folder: mlserver start ."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

NAMES = {"x": "same", "n": "count", "t": "text"}


class Echo(MLModel):
    """Gives its three inputs back. Choosing outputs is the model's own work in MLServer."""

    async def load(self) -> bool:
        """Nothing to load."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Decodes and encodes each tensor."""
        wanted = {entry.name for entry in payload.outputs or []} or set(NAMES.values())
        outputs = []
        for entry in payload.inputs:
            codec = StringCodec if entry.datatype == "BYTES" else NumpyCodec
            if NAMES[entry.name] in wanted:
                outputs.append(codec.encode_output(NAMES[entry.name], codec.decode_input(entry)))
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
