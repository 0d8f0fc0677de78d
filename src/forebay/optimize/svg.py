"""Two plots as SVG text, drawn by hand so that a report needs no library and no network. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 24, 24, 52
_CHARACTER, _LINE = 6.6, 13
"""Width and height of what is written, at 12 pixels."""
_FLOOR = 1e-7
"""Drops below are drawn here: the axis is logarithmic."""


@dataclass(frozen=True)
class Point:
    """One candidate. `drop`: how much worse it answers, in units of the goal."""

    name: str
    speedup: float
    drop: float
    passed: bool
    chosen: bool


def scatter(points: Sequence[Point], max_drop: float, min_speedup: float, drop_name: str) -> str:
    """Speed-up to the right, drop upwards (logarithmic), and the lines of the gate: who is right below them passes."""
    drops = [max(point.drop, _FLOOR) for point in points if math.isfinite(point.drop)] + [max(max_drop, _FLOOR)]
    low = math.floor(math.log10(min(drops)) - 0.3)
    high = math.ceil(math.log10(max(drops)) + 0.3)
    widest = max([point.speedup for point in points] + [min_speedup]) * 1.15

    def x(speedup: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * speedup / widest

    def y(drop: float) -> float:
        place = (math.log10(max(drop, 10**low)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(place, 1.0)

    parts = [_open(_HEIGHT)]
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts.append(
        f'<rect class="good" x="{x(min_speedup):.1f}" y="{y(max_drop):.1f}" width="{right - x(min_speedup):.1f}" '
        f'height="{bottom - y(max_drop):.1f}"/>'
    )
    for power in range(low, high + 1):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(10**power):.1f}" y2="{y(10**power):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(10**power) + 4:.1f}" text-anchor="end">1e{power}</text>')
    step = 0.5 if widest <= 4 else math.ceil(widest / 8)
    for number in range(int(widest / step) + 1):
        parts.append(
            f'<text x="{x(number * step):.1f}" y="{bottom + 18}" text-anchor="middle">{number * step:g}×</text>'
        )
    parts.append(f'<line class="gate" x1="{_LEFT}" x2="{right}" y1="{y(max_drop):.1f}" y2="{y(max_drop):.1f}"/>')
    parts.append(f'<line class="gate" x1="{x(min_speedup):.1f}" x2="{x(min_speedup):.1f}" y1="{_TOP}" y2="{bottom}"/>')
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">speed-up</text>')
    parts.append(
        f'<text x="18" y="{(_TOP + bottom) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 18 {(_TOP + bottom) / 2})">{escape(drop_name)}</text>'
    )
    labels = _Labels()
    for point in points:
        kind = "chosen" if point.chosen else "passed" if point.passed else "rejected"
        across, down = x(point.speedup), y(point.drop if math.isfinite(point.drop) else 10**high)
        parts.append(f'<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="6"/>')
        left, top = labels.place(point.name, across, down)
        parts.append(f'<text x="{left:.1f}" y="{top:.1f}">{escape(point.name)}</text>')
    return "".join(parts) + "</svg>"


class _Labels:
    """Where names go: beside their points, none over another."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float]] = []

    def place(self, name: str, x: float, y: float) -> tuple[float, float]:
        """Left end and base line of a name."""
        width = _CHARACTER * len(name)
        left = x + 10 if x + 10 + width <= _WIDTH else x - 10 - width
        for step in range(12):
            for top in (y + 4 + _LINE * step, y + 4 - _LINE * step):
                if _TOP <= top <= _HEIGHT - _BOTTOM - 2 and self._free(left, top, width):
                    self._taken.append((left, top, width))
                    return left, top
        return left, y + 4

    def _free(self, left: float, top: float, width: float) -> bool:
        return all(
            abs(top - other) >= _LINE or left + width <= start or start + size <= left
            for start, other, size in self._taken
        )


def bars(rows: Sequence[tuple[str, float, bool]]) -> str:
    """Errors of layers as bars, the largest first: (name, error, excluded)."""
    most = max((error for _, error, _ in rows), default=0.0) or 1.0
    height = 18 * len(rows) + 8
    parts = [_open(height)]
    for place, (name, error, excluded) in enumerate(rows):
        top = 4 + 18 * place
        width = 300 * error / most
        parts.append(f'<text x="330" y="{top + 12}" text-anchor="end">{escape(name[-48:])}</text>')
        kind = "rejected" if excluded else "passed"
        parts.append(f'<rect class="{kind}" x="340" y="{top}" width="{max(width, 1):.1f}" height="14"/>')
        parts.append(f'<text x="{346 + width:.1f}" y="{top + 12}">{error:.2g}</text>')
    return "".join(parts) + "</svg>"


def _open(height: int) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">'
