"""Evidence: scaled by a KPI's own past, bounded, both expectations surprised."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.errors import ConfigError
from foreshock.frame import Frame, Kpi
from foreshock.models.evidence import EvidenceDetector, EvidenceOptions, agree, block_length, block_starts
from foreshock.models.oneline import LastValue, LinearAr, PastMedian, rolling_variance, squared_difference


def detector(**options) -> EvidenceDetector:
    return EvidenceDetector("test", {"level": PastMedian()}, EvidenceOptions(**options), {})


def frame(values: np.ndarray) -> Frame:
    values = values.reshape(len(values), -1).astype(float)
    kpis = tuple(Kpi(f"k{i}") for i in range(values.shape[1]))
    return Frame(np.arange(len(values), dtype=np.int64) * 60 * 10**9, values, kpis, 60.0)


def test_units_do_not_matter():
    """A KPI in bytes and the same in gibibytes, or with another zero far away, give the same evidence."""
    quiet = np.random.default_rng(0).normal(8, 1, 400)
    quiet[300] += 9
    a = detector().score(frame(quiet)).kpis
    b = detector().score(frame(quiet * 2.0**30)).kpis
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_kpi_that_jumps_often_must_jump_further():
    """The same jump counts less for a KPI that makes it every few minutes."""
    rng = np.random.default_rng(1)
    calm, jumpy = rng.normal(10, 1, 600), rng.normal(10, 1, 600)
    jumpy[::20] += 12
    calm[555], jumpy[555] = 22.0, 22.0
    kpis = detector().score(frame(np.stack([calm, jumpy], 1))).kpis
    assert kpis[555, 0] > 3 * kpis[555, 1]


def test_no_single_value_counts_more_than_the_cap():
    """A broken exporter can't drown everything else."""
    values = np.random.default_rng(2).normal(10, 1, (300, 1))
    values[200] = 1e30
    assert np.nanmax(detector(cap=20.0).score(frame(values)).kpis) <= 20


def test_agree_wants_both_and_forgives_silence():
    """The geometric mean of what was told; one silent signal leaves the other; both silent give 0."""
    ratios = np.array([[4.0, np.nan, np.nan, 100.0], [9.0, 5.0, np.nan, 100.0]])
    np.testing.assert_allclose(agree(ratios, 20.0), [6.0, 5.0, 0.0, 20.0], rtol=1e-6)


def test_blocks_are_short_early_and_cover_everything():
    """Every slot lies in exactly one block, and where it begins depends on the slot alone."""
    o = EvidenceOptions(early=64, block=32)
    starts = block_starts(0, 300, o)
    covered = np.concatenate([np.arange(s, s + block_length(int(s), o)) for s in starts])
    assert covered[:300].tolist() == list(range(300))
    assert block_starts(100, 300, o).tolist() == [s for s in starts if s >= 100]


def test_a_gap_is_a_gap():
    """An hour without rows costs nothing and does not shift what comes after."""
    values = np.random.default_rng(3).normal(10, 1, (200, 1))
    f = frame(values)
    time = f.time_ns.copy()
    time[120:] += 3600 * 10**9
    scores = detector().score(Frame(time, f.values, f.kpis, 60.0))
    assert np.isfinite(scores.system).all()
    assert len(scores) == 200


@pytest.mark.parametrize(
    ("options", "word"),
    [({"block": 12}, "multiples"), ({"length": 32, "block": 32}, "shorter"), ({"memory": 100}, "memory")],
)
def test_options_that_make_no_sense_are_refused(options, word):
    """What came and what is needed."""
    with pytest.raises(ConfigError, match=word):
        EvidenceOptions(**options)


def test_one_line_expectations():
    """Last value, median, and a line that auto-regression can follow."""
    context = np.array([[1.0, 2.0, np.nan], [np.nan, np.nan, np.nan]])
    last = LastValue().expect(context, 2)
    assert last[0].tolist() == [2.0, 2.0]
    assert np.isnan(last[1]).all()
    assert PastMedian().expect(context, 2)[0].tolist() == [1.5, 1.5]
    wave = np.sin(np.arange(300) * 2 * np.pi / 20)[None]
    got = LinearAr().expect(wave[:, :280], 20)
    np.testing.assert_allclose(got, wave[:, 280:], atol=0.2)


def test_rolling_one_liners_agree_with_slow_twins():
    """Variance and mean squared difference of the last rows."""
    import naive

    values = np.random.default_rng(4).normal(0, 3, (60, 2))
    values[10:14, 0] = np.nan
    got = rolling_variance(values, 16)
    np.testing.assert_allclose(got[:, 0], naive.rolling_variance(values[:, 0], 16), atol=1e-9)
    np.testing.assert_allclose(got[:, 1], naive.rolling_variance(values[:, 1], 16), atol=1e-9)
    steps = squared_difference(values[:, 1:], 4)
    assert steps[30, 0] == pytest.approx(np.mean(np.diff(values[26:31, 1]) ** 2))
