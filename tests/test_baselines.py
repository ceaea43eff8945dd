"""Baselines that learn, and scores of a stretch against its past: what they compute and refuse."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import naive
from foreshock.errors import ConfigError, FrameError
from foreshock.frame import Frame, Kpi, Labels
from foreshock.metrics import vus_pr_tsb_ad
from foreshock.models import LearningDetector, fit, load_detector
from foreshock.models.ensemble import RankAverage, Ranks
from foreshock.models.fitted import FIRST_FIT, FittedDetector
from foreshock.models.shapes import (
    left_profile,
    matrix_profile,
    polynomial_blocks,
    polynomial_error,
    spectral_residual,
)

LEARNING = ("isolation_forest", "pca", "sub_pca", "knn", "kmeans_ad", "lstm_autoencoder")


def walk(rows: int = 400, kpis: int = 3, seed: int = 0) -> Frame:
    """KPIs that share a daily curve, with noise of their own."""
    rng = np.random.default_rng(seed)
    curve = np.sin(np.arange(rows) * 2 * np.pi / 48)[:, None]
    values = 50 + 10 * curve * np.arange(1, kpis + 1) + rng.normal(0, 1, (rows, kpis))
    meta = tuple(Kpi(f"s{i}__cpu", f"s{i}", "cpu") for i in range(kpis))
    return Frame(np.arange(rows, dtype=np.int64) * 60 * 10**9, values, meta, 60.0)


def labels_of(anomaly: np.ndarray, ignore: np.ndarray | None = None) -> Labels:
    n = len(anomaly)
    ignore = np.zeros(n, bool) if ignore is None else ignore
    return Labels(anomaly, np.full(n, ""), np.full(n, ""), ignore, np.where(anomaly, 0, -1), anomaly)


def faulty(rows: int = 400, seed: int = 0) -> Frame:
    """The same with a fault of 8 rows every 50: the first KPI jumps."""
    f = walk(rows, seed=seed)
    on = np.arange(rows) % 50 >= 42
    f.values[on, 0] += 15
    return replace(f, labels=labels_of(on))


def load(name: str, **options):
    if name not in ("pca", "sub_pca", "lstm_autoencoder"):
        pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra: baselines)")
    quick = {"epochs": 3} if name == "lstm_autoencoder" else {}
    return load_detector(name, **quick, **options)


# --- learning


@pytest.mark.parametrize("name", LEARNING)
def test_labels_of_the_training_part_teach_nothing(name):
    """What needs no labels learns the same with and without them."""
    train, test = faulty(), walk(120, seed=1)
    told = load(name).fit(train).score(test)
    untold = load(name).fit(train.without_labels()).score(test)
    np.testing.assert_array_equal(told.kpis, untold.kpis)


@pytest.mark.parametrize("name", LEARNING)
def test_after_fit_it_learns_no_more(name):
    """A row scores the same whatever came long before it: the training part alone has taught."""
    d = load(name).fit(walk())
    test = walk(700, seed=1)
    other = replace(test, values=test.values.copy())
    other.values[:400] = np.random.default_rng(2).normal(90, 9, (400, 3))
    a, b = d.score(test), d.score(other)
    np.testing.assert_allclose(a.kpis[500:], b.kpis[500:], rtol=1e-5, atol=1e-6)
    assert not np.allclose(a.kpis[:400], b.kpis[:400])


@pytest.mark.parametrize("name", LEARNING)
def test_without_a_training_part_it_learns_from_the_past(name):
    """Before the first lesson no evidence, which is 0; after it there is some."""
    d = load(name)
    s = d.score(walk(300))
    assert isinstance(d, FittedDetector)
    assert not d.needs_fit
    assert (s.system[: d.first_fit] == 0).all()
    assert (s.system[d.first_fit :] > 0).any()
    assert d.first_fit >= FIRST_FIT


@pytest.mark.parametrize("name", LEARNING)
def test_what_was_constant_in_training_and_moves_is_loud(name):
    """A KPI that never changed in the training part is not forgotten."""
    train, test = walk(), walk(120, seed=1)
    for f in (train, test):
        f.values[:, 1] = 7.0
    test.values[80:90, 1] = 9.0
    s = load(name).fit(train).score(test)
    assert np.nanmax(s.kpis[:80, 1]) < 1e-3
    assert s.kpis[85, 1] > 0.5 or name == "isolation_forest"


@pytest.mark.parametrize("name", LEARNING)
def test_a_gap_is_no_fault_and_no_health(name):
    """A missing value has no score, a row without any neither; no other row is left without."""
    test = walk(160, seed=1)
    gap = replace(test, values=test.values.copy())
    gap.values[100:104, 2] = np.nan
    gap.values[120] = np.nan
    d = load(name).fit(walk())
    holed = d.score(gap)
    assert np.isnan(holed.kpis[100:104, 2]).all()
    assert np.isnan(holed.system[120])
    assert np.isfinite(np.delete(holed.system, 120)).all()


def test_a_seed_makes_a_run_repeatable():
    """The same seed gives the same scores, another one others; torch's own state is left alone."""
    train, test = walk(), walk(60, seed=1)
    for name in ("lstm_autoencoder", "isolation_forest"):
        torch.manual_seed(3)
        one = load(name, seed=5).fit(train).score(test).system
        drawn = torch.rand(1)
        np.testing.assert_array_equal(one, load(name, seed=5).fit(train).score(test).system)
        assert not np.allclose(one, load(name, seed=6).fit(train).score(test).system)
        torch.manual_seed(3)
        assert torch.rand(1) == drawn


def test_what_learning_took_is_told():
    """Seconds of training, rows, epochs and time for a row are facts of the run."""
    d = load_detector("lstm_autoencoder", epochs=2).fit(walk())
    d.score(walk(100, seed=1))
    facts = d.describe()
    assert facts["fit_wall_s"] > 0
    assert facts["fit_rows"] == 400
    assert facts["epochs_run"] == 2
    assert facts["score_ms_per_row"] > 0


def test_a_bad_training_part_is_told():
    """Too short, other KPIs, or offline in a stream: one clear error each."""
    with pytest.raises(FrameError, match=r"10 rows; sub_pca needs at least 64"):
        load_detector("sub_pca").fit(walk(10))
    with pytest.raises(FrameError, match="differ from the 3 that pca was fitted on"):
        load_detector("pca").fit(walk()).score(walk(50, kpis=2))
    with pytest.raises(ConfigError, match="can't stream"):
        load_detector("sub_pca", causal=False).stream()
    with pytest.raises(ConfigError, match="2 or more"):
        load_detector("sub_pca", window=1)
    with pytest.raises(ConfigError, match="window of poly is 1"):
        load_detector("poly", window=1)


def test_fit_gives_each_detector_what_it_may_see():
    """Streams are left as they are; labels reach those that learn from them only."""
    seen = []

    class Spy:
        name, supervised, needs_fit = "spy", False, False

        def fit(self, frame):
            seen.append(frame.labels)

        def score(self, frame): ...

        def stream(self): ...

        def describe(self):
            return {}

    fit(Spy(), faulty())
    assert seen == [None]
    assert not isinstance(load_detector("rolling_variance"), LearningDetector)
    fit(load_detector("rolling_variance"), faulty())


@pytest.mark.parametrize(
    "name", ["isolation_forest", "knn", "kmeans_ad", "random_forest", "gradient_boosting"]
)
def test_without_scikit_learn_the_extra_is_named(name, monkeypatch):
    """What to install is told when the detector is loaded."""
    for module in ("sklearn.ensemble", "sklearn.neighbors", "sklearn.cluster"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"foreshock\[baselines\]"):
        load_detector(name)


# --- supervised


SUPERVISED = (("random_forest", {"trees": 50}), ("gradient_boosting", {"rounds": 30}))


@pytest.mark.parametrize(("name", "options"), SUPERVISED)
def test_a_fault_that_was_shown_is_found(name, options):
    """Seen in the training part, found in the test part."""
    d = load(name, **options)
    assert d.needs_fit
    test = faulty(200, seed=1)
    s = d.fit(faulty()).score(test.without_labels())
    assert not d.needs_fit
    on = test.labels.anomaly
    assert s.system[on].mean() > 0.8
    assert s.system[~on].mean() < 0.2
    assert (np.argmax(s.kpis[on], axis=1) == 0).mean() > 0.7


@pytest.mark.parametrize(("name", "options"), SUPERVISED)
def test_rows_to_ignore_teach_nothing(name, options):
    """Other labels on ignored rows change no score."""
    train, test = faulty(), walk(100, seed=1)
    ignore = np.arange(400) % 50 < 10
    flipped = train.labels.anomaly ^ ignore
    one = load(name, **options).fit(replace(train, labels=labels_of(train.labels.anomaly, ignore)))
    two = load(name, **options).fit(replace(train, labels=labels_of(flipped, ignore)))
    np.testing.assert_array_equal(one.score(test).system, two.score(test).system)


@pytest.mark.parametrize(("name", "options"), SUPERVISED)
def test_labels_of_both_kinds_are_needed(name, options):
    """No fit, no labels, one class: one clear error each."""
    d = load(name, **options)
    with pytest.raises(ConfigError, match="was not fitted"):
        d.score(walk(50))
    with pytest.raises(FrameError, match="no labels"):
        d.fit(walk())
    with pytest.raises(FrameError, match="no faulty row among its 400"):
        d.fit(replace(walk(), labels=labels_of(np.zeros(400, bool))))
    with pytest.raises(FrameError, match="no quiet row"):
        d.fit(replace(walk(), labels=labels_of(np.ones(400, bool))))


# --- the ensemble


def test_a_rank_is_the_share_of_lower_scores_before():
    """Against a slow twin, with ties and missing scores."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, 60).astype(float)
    scores[[3, 20]] = np.nan
    past = rng.integers(0, 9, 30).astype(float)
    np.testing.assert_allclose(Ranks(past).push(scores), naive.ranks(past, scores))
    ranks = Ranks(past)
    np.testing.assert_allclose(
        np.concatenate([ranks.push(scores[:17]), ranks.push(scores[17:])]), naive.ranks(past, scores)
    )


def test_the_ensemble_does_not_care_for_scales():
    """A member whose scores are ten times larger counts as much."""

    class Scaled:
        def __init__(self, factor: float) -> None:
            self.name, self.factor, self.inner = "scaled", factor, load_detector("rolling_variance")

        def stream(self):
            return self

        def push(self, piece):
            s = self.inner.score(piece)
            return replace(s, system=s.system * self.factor, kpis=s.kpis * self.factor)

        def describe(self):
            return {}

    f = walk(200)
    other = load_detector("robust_z")
    one, ten = RankAverage([Scaled(1), other]), RankAverage([Scaled(10), other])
    np.testing.assert_allclose(one.score(f).system, ten.score(f).system)
    np.testing.assert_allclose(one.score(f).kpis, ten.score(f).kpis, rtol=1e-5)


def test_an_ensemble_says_what_it_is_made_of():
    """Members with their seeds; supervised as soon as one of them is; nothing inside itself."""
    d = load("rank_average", seed=4)
    assert d.supervised
    assert d.needs_fit
    assert [m["detector"] for m in d.describe()["members"]] == [
        "isolation_forest",
        "lstm_autoencoder",
        "random_forest",
    ]
    assert d.describe()["members"][0]["seed"] == 4
    unsupervised = load("rank_average", members=("isolation_forest", "pca"))
    assert not unsupervised.supervised
    assert np.isfinite(unsupervised.score(walk(300)).system).all()
    with pytest.raises(ConfigError, match="member of itself"):
        load_detector("rank_average", members=("rank_average",))
    with pytest.raises(ConfigError, match="no members"):
        load_detector("rank_average", members=())


# --- what they compute


def test_sub_pca_is_pyods():
    """Offline, the order of PyOD's PCA over standardised windows."""
    pca = pytest.importorskip("pyod.models.pca", reason="PyOD is not installed (extra: pyod)")
    f = walk(300, kpis=1)
    windows = np.lib.stride_tricks.sliding_window_view(f.values[:, 0], 16)
    expected = pca.PCA().fit(windows).decision_scores_
    got = load_detector("sub_pca", window=16, causal=False).score(f).kpis[:, 0]
    assert np.corrcoef(naive.rank(got[8:-7]), naive.rank(expected))[0, 1] > 0.9999


def test_the_matrix_profile_is_the_nearest_other_stretch():
    """Against a slow twin, flat stretches included; the left one looks back only."""
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=160))
    x[40:60], x[100:130] = 3.0, 5.0
    both, left = naive.matrix_profile(x, 8)
    got = matrix_profile(x[:, None], 8)[:, 0]
    np.testing.assert_allclose(got[4 : 4 + len(both)], both, atol=1e-5)
    got = left_profile(x[:, None], 0, 8, 160, None)[31:, 0]
    np.testing.assert_allclose(got, left[24:], atol=1e-5)


REFERENCE = """
import sys
import numpy as np, stumpy
np.save(sys.argv[2], stumpy.stump(np.load(sys.argv[1]), 32)[:, 0].astype(float))
"""


@pytest.mark.slow
def test_the_matrix_profile_is_stumpys(tmp_path):
    """The same distances as the reference implementation, as plain Python: to compile it takes a minute."""
    if find_spec("stumpy") is None:
        pytest.skip("stumpy is not installed")
    x = np.cumsum(np.random.default_rng(1).normal(size=900))
    series, distances = tmp_path / "series.npy", tmp_path / "distances.npy"
    np.save(series, x)
    subprocess.run(
        [sys.executable, "-c", REFERENCE, str(series), str(distances)],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, check=True, capture_output=True,
    )  # fmt: skip
    expected = np.load(distances)
    np.testing.assert_allclose(
        matrix_profile(x[:, None], 32)[16 : 16 + len(expected), 0], expected, atol=1e-4
    )


def test_a_polynomial_is_no_surprise():
    """A curve of power 2 is followed to the digit, at any level; a step is not."""
    t = np.arange(200.0)
    x = 1e6 + 3 * t + 0.02 * t**2
    for error in (polynomial_error, polynomial_blocks):
        assert np.nanmax(error(x[:, None], 8)) < 1e-4
    x[150:] += 50
    assert np.nanargmax(polynomial_error(x[:, None], 8)[:, 0]) in range(150, 160)
    assert np.nanargmax(polynomial_blocks(x[:, None], 8)[:, 0]) in range(140, 160)


def test_spectral_residual_sees_the_spike():
    """On a noisy sine, the row that leaves it is the most salient; a flat stretch is not salient at all."""
    x = np.sin(np.arange(400) / 5.0) + np.random.default_rng(0).normal(0, 0.2, 400)
    x[300] += 3
    found = spectral_residual(x[:, None], 64)[:, 0]
    assert np.isnan(found[:63]).all()
    assert np.nanargmax(found) == 300
    assert np.nanmax(spectral_residual(np.full((100, 1), 4.2), 64)) == 0


def test_robust_z_is_the_distance_from_the_past_median():
    """In spreads of what came before, renewed every 16 rows."""
    f = walk(100, kpis=1)
    got = load_detector("robust_z").score(f).kpis[:, 0]
    for row in (20, 50, 99):
        past = f.values[: row // 16 * 16, 0]
        center = np.median(past)
        spread = 1.4826 * np.median(np.abs(past - center))
        assert got[row] == pytest.approx(abs(f.values[row, 0] - center) / spread, rel=1e-5)


def test_offline_windows_lie_around_their_row():
    """Rolling variance and mean squared step, centred, cut off at both ends, against slow twins."""
    f = walk(50, kpis=1)
    x = f.values[:, 0]
    got = load_detector("rolling_variance", window=8, causal=False).score(f).kpis[:, 0]
    expected = np.array([x[max(0, t - 4) : t + 4].var() for t in range(50)])
    np.testing.assert_allclose(got, expected / expected.mean(), rtol=1e-4)
    got = load_detector("squared_difference", window=8, causal=False).score(f).kpis[:, 0]
    steps = np.diff(x, prepend=x[0]) ** 2
    expected = np.array([steps[max(0, t - 4) : t + 4].mean() for t in range(50)])
    np.testing.assert_allclose(got, expected / expected.mean(), rtol=1e-4)


def test_what_has_no_offline_form_says_so():
    """Chance and the spectral residual read the past only."""
    for name in ("random", "spectral_residual"):
        with pytest.raises(ConfigError, match="has no option 'causal'"):
            load_detector(name, causal=False)
    s = load_detector("matrix_profile", window=8, causal=False).score(walk(120))
    assert not s.causal
    assert np.isfinite(s.system).all()


def test_the_untrained_network_is_drawn_by_its_seed():
    """Nano's shape, other weights for another seed, the same for the same."""
    f = walk(40)
    one, again, other = (load_detector("untrained", seed=s).score(f).system for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert load_detector("untrained", seed=2).describe()["seed"] == 2
    with pytest.raises(ConfigError, match="has no option 'model'"):
        load_detector("untrained", model="nano")


@pytest.mark.data
def test_published_figures_come_out(data_dir):
    """TSB-AD's VUS-PR of one-liners and Sub-PCA on 30 series, offline; what differs are ties and ends."""
    folder = data_dir / "univariate"
    if not (folder / "published_vus_pr.csv").is_file():
        pytest.skip("published_vus_pr.csv is not there")
    with (folder / "published_vus_pr.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, window, column, median, most in (
        ("rolling_variance", 16, "rvar16", 1e-4, 0.01),
        ("rolling_variance", 64, "rvar64", 1e-4, 0.03),
        ("rolling_variance", 256, "rvar256", 1e-4, 0.01),
        ("squared_difference", 1, "sqdiff", 1e-5, 0.03),
        ("squared_difference", 64, "sqdiff_ma64", 1e-6, 1e-3),
        ("sub_pca", None, "SubPCA", 1e-6, 1e-4),
    ):
        apart = []
        for row in rows:
            with np.load(folder / row["dataset"] / f"{row['series']}.npz") as arrays:
                part = slice(int(row["start"]), int(row["end"]))
                values, truth = arrays["value"][part].astype(float), arrays["label"][part] > 0
            usual = int(float(row["W"]))
            f = Frame(np.arange(len(values)) * 10**9, values[:, None], (Kpi("v"),), 1.0)
            s = load_detector(name, window=window or usual, causal=False).score(f)
            apart.append(abs(vus_pr_tsb_ad(s.kpis[:, 0], truth, None, usual) - float(row[column])))
        assert np.median(apart) < median, name
        assert max(apart) < most, name


# --- PyOD


@pytest.mark.parametrize("name", ["ECOD", "HBOS", "LOF", "COPOD", "MCD"])
def test_pyods_detectors_score_rows(name):
    """A row far from the training part is louder than any other."""
    pytest.importorskip("pyod", reason="PyOD is not installed (extra: pyod)")
    test = walk(100, seed=1)
    test.values[70] += 60
    d = load_detector(f"pyod:{name}").fit(walk())
    s = d.score(test)
    assert s.detector == f"pyod:{name}"
    assert np.argmax(s.system) == 70


def test_pyods_names_are_a_list():
    """Another name, or a path to some class, is refused with what is near."""
    with pytest.raises(ConfigError, match="did you mean 'pyod:ECOD'"):
        load_detector("pyod:ecod")
    with pytest.raises(ConfigError, match="can't be used here"):
        load_detector("pyod:os.system")
    with pytest.raises(ConfigError, match="can't be used here"):
        load_detector("pyod:AutoEncoder")


def test_without_pyod_the_extra_is_named(monkeypatch):
    """What to install is told when the detector is loaded."""
    monkeypatch.setitem(sys.modules, "pyod.models.ecod", None)
    with pytest.raises(ConfigError, match=r"foreshock\[pyod\]"):
        load_detector("pyod:ECOD")
