"""Asking a server from Python: one call, many at once, and what to do about errors.

python examples/mlp/build.py
forebay serve .forebay/models/mlp/mlp.onnx
python examples/client.py http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import asyncio

import numpy as np

import forebay
from forebay.core.errors import AdmissionError, ForebayError
from forebay.core.tensors import Array


def one(url: str) -> Array:
    """The shares of 3 classes for one wave: float32 [1, 3]."""
    wave = np.sin(np.linspace(0, 2 * np.pi, 16, dtype=np.float32))[np.newaxis]
    with forebay.Client(url, timeout_s=10.0) as client:
        client.wait_until_ready("mlp", timeout_s=30.0)
        return client.infer("mlp", {"x": wave})["y"]


async def many(url: str, rows: int) -> Array:
    """The same for many random waves, each a call of its own, so that the server has something to batch."""
    waves = np.random.default_rng(0).normal(size=(rows, 1, 16)).astype(np.float32)
    async with forebay.AsyncClient(url, timeout_s=10.0) as client:
        results = await asyncio.gather(*(client.infer("mlp", wave) for wave in waves))
    return np.concatenate([result["y"] for result in results])


def main() -> None:
    """Command line: the server's URL is the only argument."""
    parser = argparse.ArgumentParser(description="Ask a server that serves mlp.onnx.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    url = parser.parse_args().url
    try:
        print(f"one wave: {one(url).round(3).tolist()}")
        print(f"100 waves: mean shares {asyncio.run(many(url, 100)).mean(axis=0).round(3).tolist()}")
    except AdmissionError as error:
        raise SystemExit(f"refused, come back in {error.retry_after_s:g} s: {error.message}") from None
    except ForebayError as error:
        raise SystemExit(f"{error.code}: {error.message}") from None


if __name__ == "__main__":
    main()
