"""Curves by epoch: as SVG for the report, and as a line of blocks for a terminal. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 760, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 150, 16, 36
_STEPS = 4
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Line:
    """A value at each epoch."""

    name: str
    values: Sequence[float]


def lines(numbers: Sequence[int], drawn: Sequence[Line], name: str, best: int) -> str:
    """Lines over epochs, with a mark at the epoch that was kept."""
    values = [value for line in drawn for value in line.values if math.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    span = max(numbers[-1] - numbers[0], 1)

    def x(number: int) -> float:
        return _LEFT + (right - _LEFT) * (number - numbers[0]) / span

    def y(value: float) -> float:
        return bottom - (bottom - _TOP) * (value - low) / (high - low)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">']
    for step in range(_STEPS + 1):
        value = low + (high - low) * step / _STEPS
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for number in sorted({numbers[0], best, numbers[-1]}):
        parts.append(f'<text x="{x(number):.1f}" y="{bottom + 16}" text-anchor="middle">{number}</text>')
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">epoch; {escape(name)}</text>')
    parts.append(f'<line class="gate" x1="{x(best):.1f}" x2="{x(best):.1f}" y1="{_TOP}" y2="{bottom}"/>')
    for place, line in enumerate(drawn):
        points = [(x(n), y(v)) for n, v in zip(numbers, line.values, strict=True) if math.isfinite(v)]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        parts.append(f'<polyline class="line{place}" points="{path}"/>')
        parts += [f'<circle class="dot{place}" cx="{across:.1f}" cy="{down:.1f}" r="2.5"/>' for across, down in points]
        if points:
            parts.append(
                f'<text class="dot{place}" x="{right + 8}" y="{_TOP + 12 + 16 * place}">{escape(line.name)}</text>'
            )
    return "".join(parts) + "</svg>"


def spark(values: Sequence[float], width: int) -> str:
    """The last values as a line of blocks, the lowest of them lowest."""
    shown = [value for value in values if math.isfinite(value)][-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = high - low or 1.0
    return "".join(_BLOCKS[min(int((value - low) / span * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in shown)
