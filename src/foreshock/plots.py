"""From arrays to pictures: the system's score, services against time, one KPI around an incident.

Every picture is a matplotlib Figure in one of two widths (a desk and a phone, drawn 1:1, so that
letters keep their size), and becomes SVG whose colours follow the page's theme, or PNG.

Not here: the page around them (report).
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foreshock.calibrate import CausalThreshold, Threshold
from foreshock.errors import InputError
from foreshock.frame import Labels
from foreshock.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from foreshock.decide import Event

Width = Literal["wide", "narrow", "panel"]
PIXELS: dict[str, int] = {"wide": 1040, "narrow": 350, "panel": 320}
MOST_SERVICES = 24  # rows of the heat map; the quieter services are left out, and the caller told


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours by their job. Blue against vermilion and grey, apart for every kind of colour vision.

    Source: Okabe and Ito 2008, lightened or darkened for contrast on each ground.
    """

    ink: str
    muted: str
    line: str
    ground: str
    value: str  # what was observed
    alarm: str  # incidents
    expected: str  # what was expected
    limit: str  # thresholds
    known: str  # what was known afterwards


LIGHT = Palette(
    "#16202c", "#5a6675", "#d9dfe6", "#ffffff", "#0b66ad", "#c8480a", "#7a8794", "#8a6100", "#00795a"
)
DARK = Palette(
    "#e8edf3", "#9aa7b5", "#313c48", "#171e26", "#62b0ee", "#ff8f57", "#8795a3", "#e0ac3f", "#3fc39a"
)
# Colours that stand for CSS variables, replaced in `to_svg`: the page decides what they look like.
PAGE = Palette(*(f"#0f0e{n:02x}" for n in range(1, 10)))


def timeline(
    scores: Scores,
    threshold: Threshold | CausalThreshold | None = None,
    events: Sequence[Event] = (),
    *,
    known: Labels | None = None,
    width: Width = "wide",
    left_px: float = 0.0,
    palette: Palette = PAGE,
) -> Figure:
    """The system's score with its threshold, events shaded and numbered, what is known afterwards below.

    Long recordings are drawn as the range from least to most of each pixel, so no peak is lost.

    Args:
        left_px: room for the letters at the left, at least; `left_of` another picture puts one clock
            under the other.
    """
    figure, axes = _figure(width, 250 if width == "wide" else 230, palette)
    _shade(axes, scores, events, palette, apart=(18 if width == "wide" else 24) / PIXELS[width])
    score = np.asarray(scores.system, dtype=float)
    high = _high(threshold, len(scores))
    if _is_wide_ranged(score, high):
        axes.set_yscale("symlog", linthresh=max(_finite_min(high), 1e-6), linscale=1.5)
    _line(axes, scores.time, score, palette.value, PIXELS[width], 1.1)
    if np.isfinite(high).any():
        _steps(axes, scores.time, np.where(np.isfinite(high), high, np.nan), palette.limit)
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(score))) if np.isfinite(score).any() else 0.0)
    if known is not None:
        _truth(axes, scores, known, palette)
    _finish(figure, axes, scores, palette, width, left_px)
    return figure


def heat_map(
    scores: Scores,
    events: Sequence[Event] = (),
    *,
    width: Width = "wide",
    palette: Palette = PAGE,
    most: int = MOST_SERVICES,
) -> Figure:
    """Services against time: the stronger the colour, the stranger the service. Loudest services first.

    The scale is the recording's own: no colour up to the upper quartile, full at the 99.8 % point.
    """
    rows = loudest_services(scores, most)
    names = [scores.service_names[i] for i in rows]
    time = scores.time
    span = (_number(time[-1]) - _number(time[0])) * 86_400 / scores.step_s if len(time) else 0
    columns = int(min(PIXELS[width], round(span) + 1))
    place, edges = _columns(_numbers(time), columns)
    tops = [envelope(np.asarray(scores.services[:, i], dtype=float), place, columns)[1] for i in rows]
    data = np.array(tops)  # (services shown, columns)
    figure, axes = _figure(width, 44 + 21 * max(len(names), 1), palette)
    usual = float(np.nanquantile(data, 0.75)) if np.isfinite(data).any() else 0.0
    most_seen = float(np.nanquantile(data, 0.998)) if np.isfinite(data).any() else 1.0
    strength = np.clip((data - usual) / max(most_seen - usual, 1e-9), 0, 1)
    left, right = float(edges[0]), float(edges[-1])
    extent = (left, right, len(names) - 0.5, -0.5)
    axes.imshow(_tint(strength, LIGHT.alarm), extent=extent, aspect="auto", interpolation="nearest")
    for event in events:
        axes.axvline(_number(time[event.start]), color=palette.ink, lw=0.7, alpha=0.4)
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color=palette.ground, lw=1.5)
    most_letters = 30 if width == "wide" else 17
    short = names if width == "wide" else _without_common_ends(names)
    labels = [n if len(n) <= most_letters else n[: most_letters - 1] + "…" for n in short]
    axes.set_yticks(range(len(names)), labels)
    axes.tick_params(axis="y", length=0)
    _finish(figure, axes, scores, palette, width)
    axes.grid(False)
    axes.set_xlim(left, right)
    return figure


def kpi_panel(
    time: np.ndarray,
    values: np.ndarray,
    *,
    expected: np.ndarray | None = None,
    spread: float = 0.0,
    during: tuple[np.datetime64, np.datetime64] | None = None,
    onset: np.datetime64 | None = None,
    unit: str = "",
    width: Width = "panel",
    palette: Palette = PAGE,
) -> Figure:
    """One KPI around an incident: its values, the band expected from the past, where it changed.

    Args:
        spread: half the height of the band around `expected`, in the KPI's unit.
        during: the incident's first and last moment, shaded.
        onset: when this KPI changed, marked.
    """
    figure, axes = _figure(width, 132, palette)
    if during is not None:
        axes.axvspan(_number(during[0]), _number(during[1]), color=palette.alarm, alpha=0.13, lw=0)
    numbers = _numbers(time)
    if expected is not None and np.isfinite(expected).any():
        expected = np.asarray(expected, dtype=float)
        floor = 0.0 if np.nanmin(values, initial=np.inf) >= 0 else -np.inf  # no latency below 0
        expected = np.maximum(expected, floor)
        if spread > 0:
            low, high = np.maximum(expected - spread, floor), expected + spread
            axes.fill_between(numbers, low, high, color=palette.expected, alpha=0.28, lw=0)
        axes.plot(numbers, expected, color=palette.expected, lw=1.1, dashes=(4, 2))
    _line(axes, time, np.asarray(values, dtype=float), palette.value, PIXELS[width], 1.4)
    if onset is not None:
        axes.axvline(_number(onset), color=palette.alarm, lw=1.3)
    _style(axes, palette)
    _clock(axes, 3, palette)
    axes.yaxis.set_major_locator(_ticker().MaxNLocator(3))
    short = unit if len(unit) <= 3 or unit == "ratio" else ""
    axes.yaxis.set_major_formatter(_ticker().FuncFormatter(lambda v, _: quantity(v, short)))
    if len(time):
        axes.set_xlim(numbers[0], numbers[-1] if len(time) > 1 else numbers[0] + 1e-3)
    # Fixed margins: panels stand side by side, and measuring letters takes longer than drawing them.
    width_px, height_px = PIXELS[width], 132
    axes.set_position((62 / width_px, 24 / height_px, 1 - 68 / width_px, 1 - 30 / height_px))
    return figure


def audit_dots(rows: Sequence[Mapping[str, Any]], *, palette: Palette = LIGHT) -> Figure:
    """The leakage audit from its records: a line for each way of judging, a dot for each F1.

    What a method can claim is the lowest dot; what papers show is often the highest.
    """
    labels = [f"{r['recording']}: {r['scorer']}\n{r['how']}" for r in rows]
    figure, axes = _figure("wide", 60 + 44 * max(len(rows), 1), palette)
    kinds = (
        ("point_adjusted_f1_oracle_random", "random scores, point-adjusted", palette.muted, "|", 13.0),
        ("point_adjusted_f1_oracle", "point-adjusted, best threshold", palette.alarm, "D", 6.0),
        ("f1_oracle", "best threshold", palette.limit, "o", 8.0),
        ("f1_calibrated", "calibrated threshold", palette.value, "s", 7.0),
    )
    for key, name, color, marker, size in kinds:
        values = [np.nan if r[key] is None else float(r[key]) for r in rows]
        axes.plot(values, range(len(rows)), marker, color=color, ms=size, label=name, clip_on=False, zorder=3)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _style(axes, palette)
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1", color=palette.muted)
    legend = axes.legend(
        loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, frameon=False, fontsize=11,
        labelcolor=palette.ink,
    )  # fmt: skip
    legend.set_in_layout(True)
    _fit(figure)
    return figure


def _without_common_ends(names: Sequence[str]) -> list[str]:
    """ts-cart-service and ts-seat-service as cart and seat, where most are called so."""
    out = list(names)
    for pattern, kept in ((r"([^-_.]+[-_.])(.+)", 2), (r"(.+)([-_.][^-_.]+)", 1)):
        found = [re.fullmatch(pattern, name, re.S) for name in out]
        ends = [match[3 - kept] for match in found if match]
        common = max(dict.fromkeys(ends), key=ends.count, default="")
        if len(names) > 2 and ends.count(common) >= 0.7 * len(names):
            out = [
                match[kept] if match and match[3 - kept] == common else name
                for name, match in zip(out, found, strict=True)
            ]
    return out if len(set(out)) == len(out) else list(names)


def loudest_services(scores: Scores, most: int = MOST_SERVICES) -> list[int]:
    """Which services a picture shows: the `most` with the highest peaks, highest first."""
    if not len(scores):
        return list(range(min(most, len(scores.service_names))))
    services = np.where(np.isfinite(scores.services), scores.services, -np.inf)
    keep = max(1, len(scores) // 500)  # a peak that lasts: the level passed in 0.2 % of the rows
    peak = np.partition(services, len(services) - keep, axis=0)[-keep]
    return [int(i) for i in np.argsort(-peak, kind="stable")[:most]]


def envelope(values: np.ndarray, place: np.ndarray, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and most of the values that fall into each bucket, (buckets,) each.

    No extreme is lost, whatever the length. A bucket without any observation gives NaN.

    Args:
        place: (T,) the bucket of each value, rising, 0..buckets - 1.

    Example:
        >>> envelope(np.array([1.0, 5.0, 2.0, np.nan]), np.array([0, 0, 2, 3]), 4)
        (array([ 1., nan,  2., nan]), array([ 5., nan,  2., nan]))
    """
    least, most = np.full(buckets, np.inf), np.full(buckets, -np.inf)
    finite = np.isfinite(values)
    np.minimum.at(least, place[finite], values[finite])
    np.maximum.at(most, place[finite], values[finite])
    seen = np.isfinite(least)
    return np.where(seen, least, np.nan), np.where(seen, most, np.nan)


def quantity(value: float, unit: str = "") -> str:
    """A number with its unit, as short as it can be read.

    Example:
        >>> quantity(0.0123, "s"), quantity(1530.0, "MiB"), quantity(97.3, "%"), quantity(float("nan"))
        ('12 ms', '1.5 GiB', '97 %', 'missing')
    """
    if not np.isfinite(value):
        return "missing" if np.isnan(value) else ("∞" if value > 0 else "-∞")
    if unit == "ratio":
        return f"{_digits(100 * value)} %"
    if unit == "s" and value != 0:
        for factor, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor or name == "µs":
                return f"{_digits(value / factor)} {name}"
    if unit in ("B", "bytes", "KiB", "MiB") and value != 0:
        bytes_ = value * {"KiB": 1024.0, "MiB": 1024.0**2}.get(unit, 1.0)
        for factor, name in ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
            if abs(bytes_) >= factor:
                return f"{_digits(bytes_ / factor)} {name}"
        return f"{_digits(bytes_)} B"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    """About three digits, thousands and millions by letter."""
    size = abs(value)
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= factor:
            return f"{value / (1e3 if letter == 'k' else factor):.3g}{letter}"
    if size >= 100 or size == 0:
        return f"{value:,.0f}"
    return f"{value:.0f}" if size >= 10 else f"{value:.2g}"


def to_svg(figure: Figure, name: str, *, described: str = "") -> str:
    """The figure as an `<svg>` element for a page: no fixed colours, no ids that clash, text as text.

    Args:
        name: unique on the page; becomes the prefix of every id inside.
        described: what the picture shows, for those who don't see it.
    """
    import matplotlib

    _check_name(name)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name in letters the measuring font lacks
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.S)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r'(\s)id="([^"]*)"', lambda m: f'{m[1]}id="{name}-{m[2]}"' if m[2] in used else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'(<use[^>]*xlink:href=")#', rf"\1#{name}-", text)
    text = re.sub(r'<a xlink:href="(#[\w-]+)" target="_blank">', r'<a href="\1">', text)
    text = re.sub(r" ?font-family:[^;\"]*;?", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", text)
    text = re.sub(r"<[^>]+>", _rounded, text)
    for field in fields(PAGE):
        text = text.replace(getattr(PAGE, field.name), f"var(--{field.name})")
    role = "group" if "<a " in text else "img"  # an image would hide its links from screen readers
    label = f'role="{role}" aria-label="{html.escape(described, quote=True)}"'
    size = f'viewBox="0 0 {figure.get_figwidth() * 72:.0f} {figure.get_figheight() * 72:.0f}"'
    text = re.sub(
        r"<svg[^>]*>",
        f'<svg class="plot" {size} {label} xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    )
    return re.sub(r"\n\s*", "\n", text)


def _rounded(tag: re.Match[str]) -> str:
    """A tag with its coordinates in tenths of a pixel; the letters between tags stay as they are."""
    return re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", tag[0])


def to_png(figure: Figure, *, ground: str = LIGHT.ground, dpi: int = 144) -> bytes:
    """The figure as PNG; draw it with LIGHT or DARK, and give that palette's ground."""
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor=ground, dpi=dpi)
    return out.getvalue()


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise InputError(f"a picture's name is {name!r}; it must be letters, digits, '-' and '_'.")


def _ticker() -> Any:
    from matplotlib import ticker

    return ticker


def _figure(width: Width, height_px: float, palette: Palette) -> tuple[Figure, Axes]:
    """An empty figure drawn 1:1 in pixels, without pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PIXELS[width] / 72, height_px / 72), dpi=72)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set_facecolor("none")
    return figure, axes


def _number(moment: np.datetime64) -> float:
    return float(moment.astype("datetime64[ns]").astype(np.int64)) / 86_400e9


def _numbers(time: np.ndarray) -> np.ndarray:
    """Days since 1970, matplotlib's own clock."""
    return np.asarray(time.astype("datetime64[ns]").astype(np.int64) / 86_400e9)


def _line(axes: Axes, time: np.ndarray, values: np.ndarray, color: str, pixels: int, lw: float) -> None:
    """A line, broken where nothing was observed; beyond a value a pixel, the range of each pixel."""
    numbers = _numbers(time)
    if len(values) > 1.5 * pixels:
        place, edges = _columns(numbers, pixels)
        least, most = envelope(values, place, pixels)
        axes.fill_between(edges[:-1], least, most, color=color, lw=0.8, alpha=0.95)
        return
    apart = np.diff(numbers)
    gaps = np.flatnonzero(apart > 2.5 * np.median(apart)) + 1 if len(apart) else np.zeros(0, int)
    numbers, values = np.insert(numbers, gaps, numbers[gaps]), np.insert(values, gaps, np.nan)
    axes.plot(numbers, values, color=color, lw=lw, solid_joinstyle="round")
    known = np.concatenate([[False], np.isfinite(values), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    if alone.any():  # a value between two gaps has no line to be seen on
        axes.plot(numbers[alone], values[alone], ".", color=color, ms=2.5)


def _columns(numbers: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The column 0..count - 1 of each moment, and the columns' edges in days, (count + 1,)."""
    edges = np.linspace(numbers[0], max(numbers[-1], numbers[0] + 1e-6), count + 1)
    place = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, count - 1)
    return place, edges


def _steps(axes: Axes, time: np.ndarray, values: np.ndarray, color: str) -> None:
    """A line that changes seldom: only its corners are drawn."""
    changes = np.flatnonzero(~((values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))))
    rows = np.unique(np.concatenate([[0, len(values) - 1], changes, changes + 1]))
    axes.plot(_numbers(time[rows]), values[rows], color=color, lw=1.2, dashes=(5, 3))


def _shade(axes: Axes, scores: Scores, events: Sequence[Event], palette: Palette, apart: float) -> None:
    """Events shaded and numbered; numbers stand `apart` at least, a share of the width."""
    if not len(scores):
        return
    time = scores.time
    span = _number(time[-1]) - _number(time[0])
    last_told = -np.inf
    for place, event in enumerate(events, 1):
        left = _number(time[event.start])
        right = max(_number(time[event.end - 1]), left + span / 400)
        axes.axvspan(left, right, color=palette.alarm, alpha=0.16, lw=0)
        middle = (left + right) / 2
        if middle - last_told > apart * span:  # numbers that would overlap are left out
            axes.text(
                middle, 1.01, str(place), transform=axes.get_xaxis_transform(), ha="center",
                va="bottom", color=palette.alarm, fontsize=11, fontweight="bold", url=f"#incident-{place}",
            )  # fmt: skip
            last_told = middle


def _truth(axes: Axes, scores: Scores, known: Labels, palette: Palette) -> None:
    """A thin track under the axis: what is known afterwards."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.anomaly.astype(int), [0]])))
    time = scores.time
    least = (_number(time[-1]) - _number(time[0])) / 400
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        left = _number(time[first])
        right = max(_number(time[stop - 1]), left + least)
        axes.axvspan(left, right, 0.0, 0.045, color=palette.known, lw=0, zorder=3)


def _high(threshold: Threshold | CausalThreshold | None, rows: int) -> np.ndarray:
    if threshold is None:
        return np.full(rows, np.nan)
    return np.broadcast_to(np.asarray(threshold.high, dtype=float), (rows,))


def _finite_min(values: np.ndarray) -> float:
    finite = values[np.isfinite(values) & (values > 0)]
    return float(finite.min()) if len(finite) else 1.0


def _is_wide_ranged(score: np.ndarray, high: np.ndarray) -> bool:
    """Whether a linear axis would flatten the threshold to the ground."""
    finite = high[np.isfinite(high)]
    if not len(finite) or not np.isfinite(score).any():
        return False
    return bool(np.nanmax(score) > 15 * max(float(np.median(finite)), 1e-9) and np.median(finite) > 0)


def _tint(strength: np.ndarray, color: str) -> np.ndarray:
    """RGBA of one colour whose opacity is the strength; a mid grey veil where nothing was observed."""
    from matplotlib.colors import to_rgb

    image = np.empty((*strength.shape, 4))
    image[..., :3] = to_rgb(color)
    image[..., 3] = 0.04 + 0.96 * np.nan_to_num(strength)
    image[np.isnan(strength)] = (0.5, 0.5, 0.5, 0.3)
    return image


def left_of(figure: Figure) -> float:
    """Pixels left of the clock: room taken by letters."""
    return float(figure.axes[0].get_position().x0 * figure.bbox.width)


def _finish(
    figure: Figure, axes: Axes, scores: Scores, palette: Palette, width: Width, left_px: float = 0.0
) -> None:
    _style(axes, palette)
    _clock(axes, 8 if width == "wide" else 4, palette)
    if len(scores):
        left = _number(scores.time[0])
        axes.set_xlim(left, max(_number(scores.time[-1]), left + 1e-4))
    _fit(figure, left_px)


def _style(axes: Axes, palette: Palette) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(palette.line)
    axes.grid(axis="y", color=palette.line, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=palette.muted, labelsize=11, length=0, pad=5)
    axes.tick_params(axis="x", length=3, color=palette.line)
    axes.margins(x=0)


def _clock(axes: Axes, most: int, palette: Palette) -> None:
    from matplotlib import dates

    axes.xaxis_date("UTC")
    locator: Any = dates.AutoDateLocator(minticks=2, maxticks=most, tz="UTC")  # type: ignore[no-untyped-call]
    concise: Any = dates.ConciseDateFormatter(locator, tz="UTC", show_offset=False)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(concise)


def _fit(figure: Figure, left_px: float = 0.0) -> None:
    """Make room for the letters, and read no name as mathematics."""
    axes = figure.axes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for text in (*axes.get_yticklabels(), *axes.get_xticklabels(), *axes.texts):
            text.set_parse_math(False)
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        box = axes.get_tightbbox(renderer)
        if box is None:
            return
        whole, inner = figure.bbox, axes.get_window_extent(renderer)
        pad = 3.0
        left, right = inner.x0 - box.x0 + pad, max(box.x1 - inner.x1, 0) + pad
        below, above = inner.y0 - box.y0 + pad, max(box.y1 - inner.y1, 0) + pad
        w, h = whole.width, whole.height
        left = min(max(left, left_px), 0.45 * w)
        axes.set_position((left / w, below / h, (w - left - right) / w, (h - below - above) / h))
