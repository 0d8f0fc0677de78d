"""Files of a Hugging Face folder: JSON and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from forebay.core.errors import SetupError
from forebay.optimize.sources.port import missing

WEIGHTS = "model.safetensors"


def read_json(file: Path, kind: Any) -> Any:
    """Raises `SetupError` where it is not there or of another form."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except OSError as error:
        raise SetupError(f"{file}: {error.strerror or error}; a Hugging Face folder has one") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} is not as transformers writes it: {error}; copy the folder again") from None


def read_tensors(folder: Path) -> dict[str, Any]:
    """The folder's weights in float32. Raises `SetupError`."""
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise missing("reading safetensors", "optimize", error) from None
    file = folder / WEIGHTS
    if not file.is_file():
        raise SetupError(f"{folder} has no {WEIGHTS}; weights in other forms (.bin are pickles) are not read")
    try:
        loaded = load_file(file)
    except Exception as error:  # the library has errors of its own
        raise SetupError(f"{file}: {error}") from None
    return {name: value.astype(np.float32) for name, value in loaded.items()}
