"""The default detector's stream: causal, the same in pieces, calm where nothing happens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from foreshock.errors import ConfigError, FrameError
from foreshock.frame import Frame, Kpi
from foreshock.models import copy_of, load_detector
from foreshock.models.moment import Moment, MomentConfig
from foreshock.models.recognise import Recogniser
from foreshock.models.reconstruct import moment_detector
from foreshock.models.vigil import CROWD, Movement, VigilDetector, VigilOptions
from tests import naive

TINY = MomentConfig(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=2, seq_len=64, vocab_size=8)
OPTIONS = {"length": 64, "block": 16, "scales": (1, 4, 8)}


@pytest.fixture(scope="module")
def detector() -> VigilDetector:
    torch.manual_seed(1)
    made = moment_detector("tiny", Recogniser(Moment(TINY)).eval(), **OPTIONS)
    assert isinstance(made, VigilDetector)
    return made


def frame(rows: int = 300, kpis: int = 4) -> Frame:
    rng = np.random.default_rng(2)
    values = 50 + 5 * np.sin(np.arange(rows) / 9)[:, None] + rng.normal(0, 1, (rows, kpis))
    values[:40, 1] = np.nan  # begins late
    values[:, 2] = 7.0  # constant
    values[100:108, 0] = np.nan
    meta = tuple(Kpi(f"s{i % 2}__k{i}", f"s{i % 2}", f"k{i}") for i in range(kpis))
    return Frame(np.arange(rows, dtype=np.int64) * 60 * 10**9, values, meta, 60.0)


def test_the_future_does_not_matter(detector: VigilDetector):
    """Not at any row, in whatever block or coarse step it lies."""
    f = frame()
    before = detector.score(f)
    for at in (60, 137, 200):
        changed = replace(f, values=f.values.copy())
        changed.values[at:] = 1e4
        after = detector.score(changed)
        np.testing.assert_allclose(after.kpis[:at], before.kpis[:at], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(after.system[:at], before.system[:at], rtol=1e-5, atol=1e-7)


def test_pieces_give_what_the_whole_gives(detector: VigilDetector):
    """Rows one by one, in odd pieces or at once: the same scores and expectations."""
    f = frame()
    whole = detector.score(f)
    stream, parts, row = detector.stream(), [], 0
    for size in (1, 1, 6, 9, 30, 1, 50, 1, 1, 100, 3, 97):
        parts.append(stream.push(f.rows(slice(row, row + size))))
        row += size
    assert row == len(f)
    for name in ("system", "services", "kpis", "expected"):
        joined = np.concatenate([getattr(p, name) for p in parts])
        np.testing.assert_allclose(joined, getattr(whole, name), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("most", [0, 1, 512])
def test_working_ahead_changes_nothing(detector: VigilDetector, most: int):
    """Rows one by one, with what is next prepared wholly, in part or not at all."""
    f = frame()
    whole = detector.score(f)
    stream, parts = detector.stream(), []
    for row in range(len(f)):
        parts.append(stream.push(f.rows(slice(row, row + 1))))
        while most and stream.prepare(most) and most > 1:
            pass
    for name in ("system", "kpis", "expected"):
        joined = np.concatenate([getattr(p, name) for p in parts])
        np.testing.assert_allclose(joined, getattr(whole, name), rtol=1e-6, atol=1e-7, err_msg=name)


def test_what_is_prepared_is_not_made_again(detector: VigilDetector, monkeypatch: pytest.MonkeyPatch):
    """A row that was prepared for never waits for the network, not even where a block begins."""
    f = frame()
    stream = detector.stream()
    stream.push(f.rows(slice(0, 200)))
    asked = []
    ask = detector.recogniser.states_before
    monkeypatch.setattr(detector.recogniser, "states_before", lambda *a: asked.append(1) or ask(*a))
    for row in range(200, 264):
        while stream.prepare():
            pass
        made = len(asked)
        stream.push(f.rows(slice(row, row + 1)))
        assert len(asked) == made, row
    assert 8 <= len(asked) <= 24  # once a patch of 8 samples at each scale and phase


def test_a_copy_goes_its_own_way(detector: VigilDetector):
    """A stream that is copied, pushed and thrown away is as it was; the network is not copied."""
    f = frame()
    stream = detector.stream()
    stream.push(f.rows(slice(0, 120)))
    other = copy_of(stream)
    assert other.recogniser is stream.recogniser
    assert other.scans[0].recogniser is stream.recogniser
    other.push(f.rows(slice(120, 150)))
    a = stream.push(f.rows(slice(120, 200))).system
    np.testing.assert_allclose(a, detector.score(f).system[120:200], rtol=1e-5, atol=1e-6)


def test_gaps_stay_gaps(detector: VigilDetector):
    """Rows that are missing in time are no anomaly, and what nobody observed has no score."""
    f = frame()
    scores = detector.score(f)
    np.testing.assert_array_equal(np.isnan(scores.kpis), np.isnan(f.values))
    hole = f.rows(np.r_[0:150, 180:300])
    assert np.isfinite(detector.score(hole).system).all()
    assert float(np.nanmax(scores.kpis[:, 2])) == 0.0


def test_movement_is_what_it_says():
    """Against the slow twin, in pieces, over a change that makes it forget."""
    values = np.random.default_rng(3).normal(0, 1, (700, 3)) ** 2
    values[300:304, 0] += 40  # too wild to teach
    values[:, 2] = 0
    o = VigilOptions(length=64, block=16, usual=128, widths=(4, 16))
    m, told = Movement(o), np.ones(values.shape, bool)
    got = np.concatenate([m.push(values[a:b], told[a:b]) for a, b in ((0, 5), (5, 90), (90, 91), (91, 700))])
    want = naive.movement(values, o.widths, o.usual, o.block, o.wildest)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_what_can_not_be():
    """A window that no network reads, or a block as long as its window, is refused with both numbers."""
    with pytest.raises(ConfigError, match="reads 64"):
        moment_detector("tiny", Recogniser(Moment(TINY)).eval(), length=128)
    with pytest.raises(ConfigError, match="shorter than"):
        VigilOptions(length=64, block=64)
    with pytest.raises(ConfigError, match="multiples of 8"):
        VigilOptions(length=60)


def test_other_kpis_are_refused(detector: VigilDetector):
    """A stream keeps its KPIs."""
    f = frame()
    stream = detector.stream()
    stream.push(f.rows(slice(0, 50)))
    with pytest.raises(FrameError, match="stream's 4"):
        stream.push(f.select(f.names[:2]).rows(slice(50, 60)))


@pytest.mark.filterwarnings("error")
def test_wild_values_are_only_large(detector: VigilDetector):
    """The largest and the smallest floats, infinities and one blip after zeros: finite scores, no warning."""
    f = frame(200, 5)
    f.values[150:153, 0], f.values[170, 0] = 1e308, -1e308
    f.values[:, 1] = 0.0
    f.values[180, 1] = 1.0
    f.values[:, 3] *= 1e-300
    f.values[100:110, 4] = np.inf
    scores = detector.score(f)
    assert np.isfinite(scores.system).all()
    assert scores.kpis[150, 0] > np.nanmax(scores.kpis[:150, 0])
    assert np.isnan(scores.kpis[100:110, 4]).all()


def test_a_shape_never_seen_is_a_discord():
    """The network's states tell a heartbeat that comes out wrong; in a crowd of KPIs nobody looks."""
    rng = np.random.default_rng(5)
    values = np.maximum(np.sin(np.arange(3000) * 2 * np.pi / 64), 0) ** 3 + 0.02 * rng.normal(size=3000)
    values[2600:2664] = values[2600:2664].cumsum() / 30  # no higher, but a slope
    only = load_detector("foreshock", signals=["discord"])
    system = only.score(table(values[:, None])).system
    assert system[2600:2900].max() > 2 * system[1000:2600].max()
    assert only.score(table(np.repeat(values[2000:, None], CROWD + 1, axis=1))).system.max() == 0


@pytest.mark.parametrize("prepared", [False, True])
def test_discords_in_pieces(detector: VigilDetector, prepared: bool):
    """Row by row, ahead or not, as at once; past the first that may count."""
    options = replace(detector.options, signals=("discord",))
    only = VigilDetector("tiny", detector.recogniser, options, {})
    f = frame(rows=900, kpis=3)
    whole, stream, rows = only.score(f), only.stream(), []
    for row in range(len(f)):
        rows.append(stream.push(f.rows(slice(row, row + 1))).kpis[0])
        while prepared and stream.prepare():
            pass
    assert np.nanmax(whole.kpis[-200:]) > 0
    np.testing.assert_allclose(np.stack(rows), whole.kpis, rtol=1e-3, atol=1e-4)


def test_coarse_scales_alone(detector: VigilDetector):
    """Without one row a step there are no states to be discords; the rest judges."""
    coarse = VigilDetector("tiny", detector.recogniser, replace(detector.options, scales=(4, 8)), {})
    f = frame(rows=300)
    whole, stream = coarse.score(f), coarse.stream()
    assert np.nanmax(whole.system) > 0
    parts = [stream.push(f.rows(part)).system for part in (slice(0, 131), slice(131, 300))]
    np.testing.assert_allclose(np.concatenate(parts), whole.system, rtol=1e-4, atol=1e-6)


def table(values: np.ndarray) -> Frame:
    meta = tuple(Kpi(f"s__k{i}", "s", f"k{i}") for i in range(values.shape[1]))
    return Frame(np.arange(len(values), dtype=np.int64) * 60 * 10**9, values, meta, 60.0)
