"""Pictures: no peak lost, no colour fixed, no name taken for code."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foreshock import plots
from foreshock.errors import InputError
from foreshock.frame import Kpi
from foreshock.scores import Scores

START_NS = 1_772_438_400_000_000_000


def make_scores(rows=300, services=("web", "cart", "db"), seed=0, step_s=60.0):
    rng = np.random.default_rng(seed)
    values = rng.gamma(4, 0.25, (rows, len(services))).astype(np.float32)
    time_ns = START_NS + (np.arange(rows) * step_s * 1e9).astype(np.int64)
    kpis = tuple(Kpi(f"{s}__cpu", s, "cpu") for s in services)
    return Scores(time_ns, values, values.copy(), values.max(1), kpis, tuple(services), step_s, "stand-in")


def event(start, end):
    return SimpleNamespace(start=start, end=end)


def as_xml(svg):
    return ET.fromstring(svg)


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.float64, st.integers(1, 80), elements=st.floats(-1e6, 1e6) | st.just(np.nan)),
    buckets=st.integers(1, 30),
)
def test_envelope_loses_no_extreme(values, buckets):
    """The least and the most of all values are the least and the most of the buckets."""
    place = np.arange(len(values)) * buckets // len(values)
    least, most = plots.envelope(values, place, buckets)
    if np.isfinite(values).any():
        assert np.nanmin(least) == np.nanmin(values)
        assert np.nanmax(most) == np.nanmax(values)
    else:
        assert np.isnan(least).all()
    assert np.array_equal(np.isnan(least), np.isnan(most))


def test_a_long_recording_stays_small_and_keeps_its_peak():
    """200,000 rows are a picture of bounded size; a single loud row reaches the top."""
    scores = make_scores(200_000)
    scores.system[123_456] = 9.0
    figure = plots.timeline(scores)
    assert figure.axes[0].get_ylim()[1] > 9
    assert len(plots.to_svg(figure, "t")) < 150_000
    assert len(plots.to_svg(plots.heat_map(scores), "h")) < 150_000


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_svg_follows_the_page(width):
    """Colours are CSS variables, letters are text, ids carry the picture's name, nothing is loaded."""
    scores = make_scores()
    svg = plots.to_svg(plots.timeline(scores, None, [event(50, 60)], width=width), "first", described="a & b")
    root = as_xml(svg)
    assert root.get("aria-label") == "a & b"
    assert root.get("viewBox").startswith(f"0 0 {plots.PIXELS[width]} ")
    assert "var(--value)" in svg
    assert "var(--alarm)" in svg
    assert not re.findall(r"#0f0e0\d", svg)
    assert "<text" in svg
    assert "font-family" not in svg
    assert all(i.startswith("first-") for i in re.findall(r' id="([^"]*)"', svg))
    assert not re.findall(r'(?:href|src)="(?!#)', svg)
    assert '<a href="#incident-1">' in svg


def test_two_pictures_of_one_page_share_no_id():
    """The same figure under two names can stand on one page."""
    scores = make_scores()
    ids = [set(re.findall(r' id="([^"]*)"', plots.to_svg(plots.timeline(scores), n))) for n in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_names_are_text_not_code():
    """A service named like markup or like mathematics is written as it is."""
    names = ("<script>alert(1)</script>", "$\\frac{1}{2}$", "a&b")
    svg = plots.to_svg(plots.heat_map(make_scores(services=names)), "h")
    told = {t.text for t in as_xml(svg).iter() if t.text and t.text.strip()}
    assert set(names) <= told
    assert "<script" not in svg


def test_heat_map_shows_the_loudest_and_the_unseen():
    """Loudest service first, at most so many; hours without rows are a veil, not calm."""
    scores = make_scores(400, tuple(f"s{i}" for i in range(40)))
    scores.services[100:150, 7] += 20
    assert plots.loudest_services(scores, 5)[0] == 7
    figure = plots.heat_map(scores, most=5)
    assert next(t.get_text() for t in figure.axes[0].get_yticklabels()) == "s7"
    gap = make_scores(400)
    rows = np.r_[0:100, 300:400]
    cut = Scores(
        gap.time_ns[rows], gap.kpis[rows], gap.services[rows], gap.system[rows], gap.kpi_meta,
        gap.service_names, gap.step_s,
    )  # fmt: skip
    image = plots.heat_map(cut).axes[0].get_images()[0].get_array()
    assert image.shape[1] == 400
    np.testing.assert_allclose(image[:, 150:250], np.broadcast_to([0.5, 0.5, 0.5, 0.3], (3, 100, 4)))


@pytest.mark.parametrize(
    "scores",
    [make_scores(1), make_scores(2), make_scores(3, ("one",))],
    ids=["one row", "two rows", "one service"],
)
def test_small_recordings_can_be_drawn(scores):
    """One row or one service is no special case for the caller."""
    for figure in (plots.timeline(scores, None, [event(0, 1)]), plots.heat_map(scores)):
        as_xml(plots.to_svg(figure, "p"))


def test_nothing_observed_can_be_drawn():
    """All scores missing: axes without a line."""
    scores = make_scores(50)
    scores.system[:] = np.nan
    scores.services[:] = np.nan
    as_xml(plots.to_svg(plots.timeline(scores), "p"))
    as_xml(plots.to_svg(plots.heat_map(scores), "p"))


def test_kpi_panel_shows_value_expectation_and_onset():
    """Value, expectation, band, shade and mark are there; a lone value between gaps is seen."""
    time = (START_NS + np.arange(60) * 30 * 10**9).view("datetime64[ns]")
    values = np.full(60, 0.1)
    values[40:50] = 2.0
    values[[10, 12]] = np.nan
    figure = plots.kpi_panel(
        time, values, expected=np.full(60, 0.1), spread=0.02, during=(time[40], time[50]), onset=time[41],
        unit="s",
    )  # fmt: skip
    svg = plots.to_svg(figure, "k")
    for color in ("value", "expected", "alarm"):
        assert f"var(--{color})" in svg
    assert any(line.get_marker() == "." for line in figure.axes[0].get_lines())
    as_xml(plots.to_svg(plots.kpi_panel(time, np.full(60, np.nan), unit="s"), "k"))
    as_xml(plots.to_svg(plots.kpi_panel(time[:1], values[:1]), "k"))


def test_png_in_both_themes():
    """The same picture as PNG, drawn with fixed colours."""
    scores = make_scores()
    for palette in (plots.LIGHT, plots.DARK):
        png = plots.to_png(plots.timeline(scores, palette=palette), ground=palette.ground)
        assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0 s"), (0.0004, "s", "400 µs"), (1.634, "s", "1.6 s"), (0.2868, "ratio", "29 %"),
        (97.81, "%", "98 %"), (1126.8, "MiB", "1.1 GiB"), (21.6, "1/s", "22 1/s"), (3_400_000, "", "3.4M"),
        (-0.5, "", "-0.5"), (float("inf"), "", "∞"),
    ],
)  # fmt: skip
def test_quantities_are_short(value, unit, text):
    """Two or three digits, with the unit an operator would say."""
    assert plots.quantity(value, unit) == text


def test_a_picture_needs_a_plain_name():
    """The name becomes part of ids, so it can't hold markup."""
    with pytest.raises(InputError, match="name"):
        plots.to_svg(plots.timeline(make_scores()), 'x"><b>')


def test_narrow_pictures_drop_what_all_names_share():
    """Train Ticket's names differ in the middle; a name that would become another's stays."""
    names = ("ts-cart-service", "ts-seat-service", "ts-order-other-service", "frontdoor")
    told = [
        t.get_text() for t in plots.heat_map(make_scores(50, names), width="narrow").axes[0].get_yticklabels()
    ]
    assert sorted(told) == ["cart", "frontdoor", "order-other", "seat"]
    twins = ("a-x", "a-y", "a-z", "x")
    told = [
        t.get_text() for t in plots.heat_map(make_scores(50, twins), width="narrow").axes[0].get_yticklabels()
    ]
    assert sorted(told) == sorted(twins)


def test_axis_numbers_keep_their_digits():
    """Coordinates are rounded, what the reader sees is not."""
    scores = make_scores(50)
    scores.system[:] = np.linspace(0, 0.4, 50)
    told = [
        t.text for t in as_xml(plots.to_svg(plots.timeline(scores), "t")).iter() if t.text and "." in t.text
    ]
    assert len(set(told)) == len(told) >= 4
    assert any(len(t.split(".")[1]) > 1 for t in told)
