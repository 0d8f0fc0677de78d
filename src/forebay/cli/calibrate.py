"""`forebay cache calibrate`: labelled pairs in, the lowest safe threshold of the semantic cache out."""

from __future__ import annotations

import asyncio
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
import typer
from rich.console import Console

from forebay.cache.semantic.calibrate import (
    Curve,
    NoThresholdError,
    ScoredPair,
    TooFewPairsError,
    choose,
    curve,
)
from forebay.cache.semantic.embedder import unit_vectors
from forebay.cache.semantic.guard import Guard
from forebay.cache.semantic.lexicon import load_lexicon
from forebay.cache.semantic.normalise import normalised
from forebay.cache.semantic.policy import Calibration
from forebay.cli.curves import check_plot, drawn, parse_share
from forebay.cli.written import check_writable, write_file
from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.embedding.engine import EmbeddedEngine, open_alone

_ROWS: Final = 32
_LONGEST_S: Final = 600.0
"""For so many: nobody else asks, and the machine may have other work."""
_FLOATS: Final = frozenset(("FP16", "FP32", "FP64"))
_YES: Final = frozenset(("1", "true", "yes", "y", "same"))
_NO: Final = frozenset(("0", "false", "no", "n", "different"))


class TextPair(NamedTuple):
    """Two texts, and whether one answer serves both. `line`: where it stands in its file."""

    one: str
    other: str
    same: bool
    line: int = 0


def calibrate(
    pairs: Annotated[Path, typer.Option(help="CSV with the columns a, b and same (yes or no).")],
    budget: Annotated[str, typer.Option(help="Largest share of different-answer pairs served wrongly, such as 1%.")],
    embedder: Annotated[
        str,
        typer.Option(
            help="The model that makes the vectors, as served: FILE.py:CLASS, a model file, or its repository."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Write the calibration here, for semantic_calibration.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write hits and false hits by threshold as a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration as JSON.")] = False,
) -> None:
    """Find the lowest threshold whose false hits are within a budget, with 95 % confidence.

    The pairs should be of your own traffic and hard: questions that lie near each other and want different answers. Too
    few of them for the budget is an error that names how many it takes. Rows that repeat a pair, either way round,
    count once. The guard is part of what is measured.

    Examples:

      forebay cache calibrate --pairs pairs.csv --budget 1% --embedder minilm.py:MiniLM --out calibration.json

      forebay cache calibrate --pairs pairs.csv --budget 5% --embedder minilm.py:MiniLM --plot curve.png
    """
    limit = parse_share("--budget", budget)
    texts = read_pairs(pairs)
    check_writable("--out", out)
    if plot is not None:
        check_plot(plot)
    vectors, digest = asyncio.run(embed_all(embedder, list(dict.fromkeys(t for p in texts for t in p[:2]))))
    scored = distinct(texts, score(texts, vectors, Guard(load_lexicon())))
    repeats = len(texts) - len(scored)
    found = curve(scored)
    if plot is not None:
        _plot(found, limit, plot)
    try:
        chosen = choose(found, limit)
    except (TooFewPairsError, NoThresholdError) as error:
        raise SetupError(f"{pairs}: {error}{f'; {_repeats_told(repeats)}' if repeats else ''}") from None
    calibration = Calibration(
        threshold=chosen.threshold,
        budget=limit,
        upper_bound=chosen.upper_bound,
        false_hits=chosen.false_hits,
        different_pairs=found.different_pairs,
        true_hits=chosen.true_hits,
        same_pairs=found.same_pairs,
        embedder=digest,
    )
    document = msgspec.json.format(msgspec.json.encode(calibration)) + b"\n"
    if out is not None:
        write_file("--out", out, document)
    if as_json:
        typer.echo(document, nl=False)
    else:
        _print(calibration, repeats)


def read_pairs(path: Path) -> list[TextPair]:
    """The labelled pairs of a file. Raises `SetupError` that names the line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"a", "b", "same"}.difference(rows.fieldnames or ())
            if missing:
                raise SetupError(f"{path}: the first line must name the columns a, b, same; {sorted(missing)} missing")
            pairs = [_pair(path, rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"--pairs {path}: {error}") from None
    if not pairs:
        raise SetupError(f"{path}: has no pairs")
    _check_labels(path, pairs)
    return pairs


def _check_labels(path: Path, pairs: Sequence[TextPair]) -> None:
    """Capital letters within a text may make another pair of it (it and IT), so only the first one is passed over."""
    first: dict[frozenset[str], TextPair] = {}
    for pair in pairs:
        before = first.setdefault(frozenset(map(_as_written, pair[:2])), pair)
        if before.same != pair.same:
            raise SetupError(
                f"{path}, lines {before.line} and {pair.line}: the same pair, and same is "
                f"{'yes' if before.same else 'no'} in one and {'yes' if pair.same else 'no'} in the other"
            )


def _as_written(text: str) -> str:
    words = " ".join(text.split()).rstrip(" .?!…")
    return words[:1].lower() + words[1:]


def _pair(path: Path, line: int, row: dict[str, str | None]) -> TextPair:
    one, other, label = row["a"], row["b"], (row["same"] or "").strip().casefold()
    if not one or not other:
        raise SetupError(f"{path}, line {line}: a and b must be texts")
    if label not in _YES | _NO:
        raise SetupError(f"{path}, line {line}: same must be yes or no, not {row['same']!r}")
    return TextPair(one, other, label in _YES, line)


def score(pairs: Sequence[TextPair], vectors: dict[str, Array], guard: Guard) -> list[ScoredPair]:
    """The cosine of every pair, and whether the guard lets it pass. The same words are a hit at any threshold."""
    return [
        ScoredPair(
            1.0 if normalised(pair.one) == normalised(pair.other) else float(vectors[pair.one] @ vectors[pair.other]),
            guard.compare(pair.one, pair.other) is None,
            pair.same,
        )
        for pair in pairs
    ]


def distinct(pairs: Sequence[TextPair], scored: Sequence[ScoredPair]) -> list[ScoredPair]:
    """One of each pair, whichever way round, in the tier's normalised form: the bound is of independent pairs, and a
    copy is no further evidence. Of copies that fare differently the one counts that speaks most against the cache."""
    found: dict[tuple[frozenset[str], bool], ScoredPair] = {}
    for pair, one in zip(pairs, scored, strict=True):
        key = frozenset((normalised(pair.one), normalised(pair.other))), pair.same
        worst = min if pair.same else max
        found[key] = worst(found.get(key, one), one, key=lambda copy: (copy.passed, copy.score))
    return list(found.values())


async def embed_all(embedder: str, texts: Sequence[str]) -> tuple[dict[str, Array], str]:
    """Unit vectors by text, and the embedder's digest. Raises `SetupError`."""
    async with open_alone(embedder, environ=os.environ) as engine:
        rows = [await embed(engine, texts[begin : begin + _ROWS]) for begin in range(0, len(texts), _ROWS)]
        widths = sorted({part.shape[1] for part in rows})
        if len(widths) > 1:
            raise SetupError(
                f"{engine.models[0]} is no embedder: its vectors have {widths[0]} numbers, and {widths[1]}"
            )
        return dict(zip(texts, np.concatenate(rows), strict=True)), engine.digest()


async def embed(engine: EmbeddedEngine, texts: Sequence[str]) -> Array:
    """Unit vectors of some texts. Raises `SetupError` for a model that makes none."""
    signature = engine.signature()
    if [spec.datatype for spec in signature.inputs] != ["BYTES"] or signature.outputs[0].datatype not in _FLOATS:
        raise SetupError(f"{engine.models[0]} is no embedder: it must take one BYTES input and give numbers first")
    shape = (len(texts), *(1 for _ in signature.inputs[0].row_shape))
    rows = np.array([text.encode() for text in texts], dtype=object).reshape(shape)
    outputs = await engine.infer({signature.inputs[0].name: rows}, timeout_s=_LONGEST_S)
    return unit_vectors(outputs[signature.outputs[0].name].reshape(len(texts), -1), texts)


def _repeats_told(repeats: int) -> str:
    return f"{repeats} of the rows repeat a pair, which counts once"


def _print(calibration: Calibration, repeats: int) -> None:
    console = Console(highlight=False, soft_wrap=True)
    found = calibration
    console.print(
        f"threshold       [bold]{found.threshold:.4f}[/bold] (cosine), with version {found.guard} of the guard"
    )
    console.print(
        f"false hits      {found.false_hits} of {found.different_pairs} pairs with different answers "
        f"({found.false_hits / found.different_pairs:.1%}); at most {found.upper_bound:.1%} with 95 % confidence, "
        f"budget {found.budget:.3g}"
    )
    console.print(
        f"true hits       {found.true_hits} of {found.same_pairs} pairs with one answer "
        f"({found.true_hits / max(1, found.same_pairs):.0%})"
    )
    if repeats:
        console.print(f"repeats         {_repeats_told(repeats)}")


def _plot(found: Curve, budget: float, path: Path) -> None:
    points = found.points[1:]
    thresholds = [point.threshold for point in points]
    different, same = max(1, found.different_pairs), max(1, found.same_pairs)
    true_hits, false_hits = [p.true_hits / same for p in points], [p.false_hits / different for p in points]
    bounds = [point.upper_bound for point in points]
    with drawn(path) as axes:
        axes.step(thresholds, true_hits, where="pre", color="seagreen", label="true hits")
        axes.step(thresholds, false_hits, where="pre", color="crimson", label="false hits")
        axes.step(thresholds, bounds, where="pre", color="crimson", ls=":", label="their upper bound, 95 %")
        axes.axhline(budget, color="black", lw=0.8, ls="--", label="budget")
        axes.set(xlabel="threshold (cosine)", ylabel="share of pairs", ylim=(0, 1))
