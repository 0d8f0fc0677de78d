"""A server with a semantic cache, as a stranger sets it up: the real command, embedder and model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx
from tests.e2e.server import MODELS, ROOT, Served, quick

ANSWERS = f"{MODELS / 'answers.py'}:Answers"
SEMANTIC = [
    *("--set", "answers.cache=semantic", "--set", "answers.semantic_shadow_rate=0"),
    *("--set", "answers.semantic_timeout_ms=20000"),  # the machine may be busy
]
MINILM_FOLDER = 'FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "minilm"'


def with_embedder(embedder: str, name: str, *more: str) -> list[str]:
    """Arguments that serve `answers` and an embedder."""
    return [*quick(ANSWERS, embedder), *SEMANTIC, "--set", f"answers.semantic_embedder={name}", *more]


def letters(folder: Path) -> str:
    """The embedder that counts letters, in a file of its own that may be changed."""
    path = folder / "letters.py"
    path.write_text((MODELS / "letters.py").read_text())
    return f"{path}:Letters"


def minilm(folder: Path, built: Path) -> str:
    """The example's MiniLM, as built elsewhere."""
    text = (ROOT / "examples" / "minilm" / "minilm.py").read_text()
    assert MINILM_FOLDER in text
    path = folder / "minilm.py"
    path.write_text(text.replace(MINILM_FOLDER, f"FOLDER = Path({str(built)!r})"))
    return f"{path}:MiniLM"


def ask(served: Served, text: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    return served.http.post("/v2/models/answers/infer", json={"inputs": [tensor]}, headers=headers)


def found(answer: httpx.Response) -> tuple[str, str]:
    """What the cache did, and the answer."""
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["outputs"][0]["data"][0]
    return answer.headers.get("x-cache", ""), text


def runs(served: Served) -> list[str]:
    """The texts that the model ran."""
    return (served.folder / "answers.runs").read_text().splitlines()


def told(served: Served) -> str:
    """What the model's configuration says of its semantic cache."""
    parameters = served.http.get("/v2/models/answers/config").json()["parameters"]
    return str(parameters["forebay.semantic_cache"]["string_value"])


def works(served: Served, number: int) -> bool:
    """Whether a text that differs in nothing but capital letters gets the answer of one that came just before."""
    text = f"Is shop {number} open today?"
    ask(served, text)
    return found(ask(served, text.lower())) == ("semantic", text.upper())
