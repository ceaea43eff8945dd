"""The contract every detector keeps, run over the whole table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foreshock.errors import ConfigError, FrameError
from foreshock.frame import Frame, Kpi, Labels
from foreshock.models import DETECTORS, copy_of, fit, load_detector

# What needs scikit-learn, which is no part of the base install.
NEED_SKLEARN = (
    "isolation_forest",
    "knn",
    "kmeans_ad",
    "random_forest",
    "gradient_boosting",
    "rank_average",
)
TAUGHT = ("random_forest", "gradient_boosting", "rank_average")
# Less of the same, so that the contract is quick to check.
QUICK = {
    "lstm_autoencoder": {"epochs": 5},
    "random_forest": {"trees": 30},
    "gradient_boosting": {"rounds": 20},
    "rank_average": {"members": ("isolation_forest", "pca", "random_forest")},
}


@pytest.fixture(scope="module")
def detectors():
    """Every detector, each loaded once, when first asked for."""

    class Loaded(dict):
        def __missing__(self, name: str):
            if name in NEED_SKLEARN:
                pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra: baselines)")
            self[name] = load_detector(name, **QUICK.get(name, {}))
            return self[name]

    return Loaded()


def ready(detector, frame: Frame):
    """The detector, fitted on labelled noise of the same KPIs if it can't score without."""
    if not getattr(detector, "supervised", False):
        return detector
    values = np.random.default_rng(1).normal(50, 2, (160, len(frame.kpis)))
    on = np.arange(160) % 40 > 35
    values[on] += 20
    time_ns = frame.time_ns[0] - np.arange(160, 0, -1) * 15 * 10**9
    return fit(detector, Frame(time_ns, values, frame.kpis, frame.step_s, labelled(on)))


def labelled(on: np.ndarray) -> Labels:
    n = len(on)
    return Labels(on, np.full(n, "cpu"), np.full(n, "s0"), np.zeros(n, bool), np.where(on, 0, -1), on)


@pytest.fixture(params=list(DETECTORS))
def detector(request, detectors):
    return detectors[request.param]


def spiky(rows: int = 90, kpis: int = 4, seed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    values = rng.normal(50, 2, (rows, kpis))
    values[:, 1] = 7.0  # constant
    values[:, 2] = np.nan  # never observed
    values[20:25, 0] = np.nan
    meta = tuple(Kpi(f"s{i % 2}__k{i}", f"s{i % 2}", f"k{i}") for i in range(kpis))
    return Frame(np.arange(rows, dtype=np.int64) * 15 * 10**9, values, meta, 15.0)


def test_shapes_and_missing_values(detector):
    """(T,), (T, S), (T, K); NaN exactly where nothing was observed; never infinite."""
    f = spiky()
    s = ready(detector, f).score(f)
    assert s.system.shape == (90,)
    assert s.services.shape == (90, 2)
    assert s.kpis.shape == (90, 4)
    assert s.service_names == ("s0", "s1")
    np.testing.assert_array_equal(np.isnan(s.kpis), np.isnan(f.values))
    assert np.isfinite(s.system).all()
    assert not np.isinf(s.kpis).any()


def test_the_future_does_not_matter(detector):
    """A score at time t is the same whatever comes after t."""
    f = spiky(190)
    g = replace(f, values=f.values.copy())
    g.values[150:] = g.values[150:] * 9 - 400
    detector = ready(detector, f)
    before, after = detector.score(f), detector.score(g)
    # Equal but for the last bits, which the size of a matrix product may change.
    np.testing.assert_allclose(before.system[:150], after.system[:150], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(before.kpis[:150], after.kpis[:150], rtol=1e-6, atol=1e-9)


def test_pieces_give_what_the_whole_gives(detector):
    """Streamed rows, in any pieces, score as the batch does."""
    f = spiky(190)
    detector = ready(detector, f)
    whole = detector.score(f)
    stream, pieces, row = detector.stream(), [], 0
    for size in (1, 7, 8, 30, 3, 41, 20, 1, 1, 1, 30, 47):
        pieces.append(stream.push(f.rows(slice(row, row + size))))
        row += size
    assert row == 190
    joined = np.concatenate([p.system for p in pieces])
    np.testing.assert_allclose(joined, whole.system, rtol=1e-5, atol=1e-5)


def test_labels_are_never_read(detector):
    """The same frame with labels scores the same."""
    f = spiky(140)
    told = replace(f, labels=labelled(np.arange(140) > 70))
    detector = ready(detector, f)
    np.testing.assert_array_equal(detector.score(f).system, detector.score(told).system)


def test_the_input_is_never_changed(detector):
    """A caller's array stays as it was."""
    f = spiky(60)
    copy = f.values.copy()
    ready(detector, f).score(f)
    np.testing.assert_array_equal(f.values, copy)


def test_one_row_and_one_kpi(detector):
    """The smallest frame has a defined result."""
    f = Frame(np.array([0], np.int64), np.array([[3.0]]), (Kpi("a"),), 60.0)
    s = ready(detector, f).score(f)
    assert s.system.shape == (1,)
    assert np.isfinite(s.system).all()


def test_constant_kpi_is_calm(detector):
    """A KPI that never changes is never the anomaly."""
    f = Frame(np.arange(200, dtype=np.int64) * 10**9, np.full((200, 1), 4.2), (Kpi("a"),), 1.0)
    if detector.name == "random" or getattr(detector, "supervised", False):
        pytest.skip("what labels taught, or chance, may say anything of it")
    s = detector.score(f)
    assert np.nanmax(s.system) < 1e-3


def test_rows_out_of_order_are_refused(detector):
    """One clear error, with what to do."""
    f = spiky(30)
    detector = ready(detector, f)
    with pytest.raises(FrameError, match="repair"):
        detector.score(f.rows(np.array([3, 2, 1])))
    with pytest.raises(FrameError, match="no rows"):
        detector.score(f.rows(slice(0, 0)))


def test_a_stream_refuses_rows_it_has_seen(detector):
    """Nothing is scored twice."""
    f = spiky(30)
    stream = ready(detector, f).stream()
    stream.push(f.rows(slice(0, 20)))
    with pytest.raises(FrameError, match="later"):
        stream.push(f.rows(slice(15, 30)))


def test_describe_is_plain(detector):
    """The facts go into the run log as they are."""
    import json

    facts = json.loads(json.dumps(detector.describe()))
    assert facts["detector"] == detector.name


UNTAUGHT = [n for n in DETECTORS if n not in ("random", *TAUGHT)]


@pytest.mark.parametrize("name", UNTAUGHT)
def test_a_planted_spike_stands_out(detectors, name):
    """Twenty spreads away from everything before: the loudest row, or the next ones for windows.

    Those that compare shapes get a KPI that has one, since they see no size.
    """
    rng = np.random.default_rng(5)
    values = rng.normal(100, 1, (300, 3))
    if name in ("matrix_profile", "kmeans_ad"):
        values += 10 * np.sin(np.arange(300) * 2 * np.pi / 20)[:, None]
    values[250, 1] += 20
    f = Frame(np.arange(300, dtype=np.int64) * 10**9, values, tuple(Kpi(f"k{i}") for i in range(3)), 1.0)
    s = detectors[name].score(f)
    late = np.argmax(np.nan_to_num(s.kpis[100:, 1])) + 100
    assert 250 <= late < 250 + 64


def test_unknown_names_and_options_say_what_is_near():
    """A typing mistake gets the nearest name."""
    with pytest.raises(ConfigError, match="did you mean 'foreshock'"):
        load_detector("foreshok")
    with pytest.raises(ConfigError, match="no option 'widnow'"):
        load_detector("rolling_variance", widnow=3)
    with pytest.raises(ConfigError, match="no option 'bolck'"):
        load_detector("foreshock", bolck=8)


def test_a_copy_of_a_stream_goes_its_own_way(detector):
    """What is pushed to a copy leaves the stream as it was, and the network is not copied."""
    f = spiky(150)
    detector = ready(detector, f)
    stream = detector.stream()
    first = stream.push(f.rows(slice(0, 110)))
    copy = copy_of(stream)
    copy.push(f.rows(slice(110, 150)))
    again = stream.push(f.rows(slice(110, 150)))
    got, whole = np.concatenate([first.system, again.system]), detector.score(f).system
    np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5)
    for shared in ("detector", "expectations"):
        assert getattr(copy, shared, None) is getattr(stream, shared, None)
