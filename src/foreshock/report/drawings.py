"""Shapes for the evaluation's page: precision-recall curves, delays, a score in time. Colours: the page's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.evaluate import RECALLS

if TYPE_CHECKING:
    from markupsafe import Markup

HEIGHT = 100  # of a timeline, in its own units; the page stretches it
WITHIN_ROWS = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80)  # where delays are read


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a picture, both axes 0..1."""

    name: str
    color: str  # a variable of the page's style
    values: np.ndarray  # at RECALLS


def mean_precision(found: Sequence[Sequence[float]]) -> np.ndarray:
    """Precision at each recall, the mean over series."""
    return np.asarray(np.mean(found, axis=0))


def curves(lines: Sequence[Curve], what: str) -> Markup:
    """Precision against recall; the first line is drawn last, above the others."""
    shapes = [_grid()]
    for line in reversed(lines):
        points = " ".join(
            f"{100 * x:.1f},{100 * (1 - y):.1f}" for x, y in zip(RECALLS, line.values, strict=True)
        )
        shapes.append(_line(points, line.color))
    told = "; ".join(f"{line.name} {line.values.mean():.2f} on average" for line in lines)
    return _svg(shapes, f"Precision against recall on {what}: {told}.", "0 0 100 100")


def delay_curve(lines: Sequence[tuple[str, str, list[float], int]]) -> dict[str, Any]:
    """Share of faults found within 0, 1, 2 … rows.

    Args:
        lines: name, colour (empty: told in the table only), delays of the faults found in rows, all faults.
    """
    shapes, rows = [_grid()], []
    step = 100 / (len(WITHIN_ROWS) - 1)
    found = [[sum(d <= most for d in one[2]) / one[3] for most in WITHIN_ROWS] for one in lines]
    top = max(1, math.ceil(4 * max(shares[-1] for shares in found))) / 4  # the picture's height, in quarters
    for (name, color, delays, faults), shares in reversed(list(zip(lines, found, strict=True))):
        points = " ".join(f"{i * step:.1f},{100 * (1 - s / top):.1f}" for i, s in enumerate(shares))
        shapes += [_line(points, color)] if color else []
        rows.append(
            {
                "name": name,
                "color": color,
                "median": float(np.median(delays)) if delays else float("nan"),
                "p90": float(np.quantile(delays, 0.9)) if delays else float("nan"),
                "at_once": shares[0],
                "never": 1 - len(delays) / faults,
                "faults": faults,
            }
        )
    told = "; ".join(f"{row['name']} {row['at_once']:.0%} in the first row" for row in reversed(rows))
    svg = _svg(shapes, f"Share of faults found within so many rows: {told}.", "0 0 100 100", "square tall")
    return {"svg": svg, "top": top, "rows": rows[::-1], "ticks": list(WITHIN_ROWS)}


def timeline(line: dict[str, Any], what: str) -> dict[str, Any]:
    """A score in time: its area, the threshold, alarms behind it and labelled faults below.

    Scores above three times the threshold are cut off, so that one peak does not flatten the rest.
    """
    score = np.array([np.nan if v is None else v for v in line["score"]], float)
    width = len(score)
    top = float(np.nanmax(score)) if np.isfinite(score).any() else 1.0
    high = line["high"]
    if high and high > 0:
        top = min(max(top, 1.15 * high), 3 * high)
    top = top if top > 0 else 1.0
    level = 90 * (1 - np.clip(score / top, 0, 1))
    shapes = [
        f'<rect x="{a}" y="0" width="{b - a}" height="90" fill="var(--alarm)" fill-opacity=".2"/>'
        for a, b in line["alarms"]
    ]
    area = " ".join(f"{i},{y:.1f} {i + 1},{y:.1f}" for i, y in enumerate(np.nan_to_num(level, nan=90.0)))
    shapes.append(f'<polygon points="0,90 {area} {width},90" fill="var(--value)" fill-opacity=".75"/>')
    if high and high > 0 and high <= top:
        y = 90 * (1 - high / top)
        shapes.append(
            f'<line x1="0" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--limit)" '
            'stroke-dasharray="5 4" stroke-width="1.5" vector-effect="non-scaling-stroke"/>'
        )
    shapes += [
        f'<rect x="{a}" y="93" width="{b - a}" height="7" fill="var(--known)"/>' for a, b in line["faults"]
    ]
    hours = line["rows"] * line["step_s"] / 3600
    said = (
        f"Score of {what} over {hours:.0f} hours, {len(line['faults'])} faults, {len(line['alarms'])} alarms."
    )
    return {
        "svg": _svg(shapes, said, f"0 0 {max(width, 1)} {HEIGHT}", "strip"),
        "start": (line["start"] or "").replace("T", " ").removesuffix("Z"),
        "hours": hours,
        "is_cut": bool(np.isfinite(score).any() and np.nanmax(score) > top),
    }


def _grid() -> str:
    return "".join(
        f'<line x1="0" x2="100" y1="{y}" y2="{y}" stroke="var(--line)" vector-effect="non-scaling-stroke"/>'
        for y in (0, 25, 50, 75, 100)
    )


def _line(points: str, color: str) -> str:
    return (
        f'<polyline points="{points}" fill="none" stroke="var(--{color})" stroke-width="2" '
        'stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
    )


def _svg(shapes: Sequence[str], said: str, box: str, style: str = "square") -> Markup:
    from markupsafe import Markup, escape

    return Markup(
        f'<svg class="draw {style}" viewBox="{box}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(said)}">{"".join(shapes)}</svg>'
    )
