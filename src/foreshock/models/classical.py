"""Classical baselines: isolation forest, PCA, neighbours, k-means, random forest, boosting, and PyOD's.

Two ways to look at a recording. *Rows*: all KPIs of one time are a point, and a model judges points
jointly. *Windows*: each KPI for itself, the last so many values are a point. Every model is fitted on
points of the training part and says how odd a point is; that is divided by what the training points got
on average, so that 1 is usual everywhere.

scikit-learn comes with the extra `baselines`, PyOD with `pyod`; PCA needs neither.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from foreshock.errors import ConfigError
from foreshock.models.fitted import CAP, MOST_ROWS, Fitted, FittedDetector, RowScale, share, soften
from foreshock.models.oneline import rolling_variance, spread_of
from foreshock.windows import median_and_mad


class PointModel(Protocol):
    """Says how odd points are."""

    def fit(self, points: np.ndarray) -> np.ndarray:
        """Learn from points (N, D); what each of them gets, (N,), itself left out where that matters."""
        ...

    def score(self, points: np.ndarray) -> np.ndarray:
        """(N, D) → (N,), higher is odder."""
        ...


# ------------------------------------------------------------------------------------------------ models


class IsolationForest:
    """How few random cuts set a point apart. Source: Liu et al. 2008; 100 trees of 256 points."""

    def __init__(self, seed: int, trees: int = 100) -> None:
        forest = _sklearn("ensemble", "isolation_forest").IsolationForest
        self.model = forest(n_estimators=trees, random_state=seed, n_jobs=1)

    def fit(self, points: np.ndarray) -> np.ndarray:
        self.model.fit(points)
        return self.score(points)

    def score(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(-self.model.score_samples(points))


class NearestNeighbors:
    """Distance to the k-th nearest training point. Source: Ramaswamy et al. 2000; k = 10 as in TSB-AD."""

    def __init__(self, neighbors: int = 10) -> None:
        self.neighbors = neighbors
        self.module = _sklearn("neighbors", "knn")
        self.model: Any = None

    def fit(self, points: np.ndarray) -> np.ndarray:
        k = min(self.neighbors, len(points) - 1)
        self.model = self.module.NearestNeighbors(n_neighbors=k, n_jobs=1).fit(points)
        return np.asarray(self.model.kneighbors()[0][:, -1])

    def score(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.kneighbors(points)[0][:, -1])


class KMeans:
    """Distance to the nearest of k means. Source: KMeansAD, Yairi et al. 2001; k = 20 as in TSB-AD."""

    def __init__(self, seed: int, clusters: int = 20) -> None:
        self.seed = seed
        self.clusters = clusters
        self.module = _sklearn("cluster", "kmeans_ad")
        self.centers = np.zeros((0, 0))

    def fit(self, points: np.ndarray) -> np.ndarray:
        k = max(1, min(self.clusters, len(np.unique(points, axis=0)), len(points) // 4))
        model = self.module.KMeans(n_clusters=k, n_init=1, random_state=self.seed).fit(points)
        self.centers = np.asarray(model.cluster_centers_)
        return self.score(points)

    def score(self, points: np.ndarray) -> np.ndarray:
        square = (points**2).sum(1)[:, None] - 2 * points @ self.centers.T + (self.centers**2).sum(1)
        return np.asarray(np.sqrt(np.maximum(square, 0).min(1)))


class SubPca:
    """Distance to the principal axes, divided by the share of variance each explains.

    Source: Shyu et al. 2003 as PyOD and TSB-AD compute it: the distance is that to the axis' unit vector
    taken for a point, so that the score is close to the window's energy over the least variance.
    """

    def fit(self, points: np.ndarray) -> np.ndarray:
        self.center = points.mean(0)
        spread = points.std(0)
        self.spread = np.where(spread > 0, spread, 1)
        _, size, axes = np.linalg.svd((points - self.center) / self.spread, full_matrices=False)
        # An axis has no sign, but this score knows one: the largest entry is positive, as in scikit-learn.
        largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
        self.axes = axes * np.where(largest < 0, -1, 1)
        part = size**2 / max(float((size**2).sum()), 1e-300)
        self.part = np.maximum(part, 1e-12)  # an axis that explains nothing must not divide by 0
        return self.score(points)

    def score(self, points: np.ndarray) -> np.ndarray:
        points = (points - self.center) / self.spread
        square = (points**2).sum(1)[:, None] - 2 * points @ self.axes.T + 1
        return np.asarray((np.sqrt(np.maximum(square, 0)) / self.part).sum(1))


class PyodModel:
    """A detector of PyOD, by a name from the list below."""

    def __init__(self, name: str, seed: int) -> None:
        module, self.name = f"pyod.models.{PYOD[name]}", name
        try:
            make = getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise ConfigError(
                f"the detector 'pyod:{name}' needs PyOD, which is not installed ({error}); "
                "pip install 'foreshock[pyod]'."
            ) from error
        takes_seed = "random_state" in inspect.signature(make).parameters
        self.model = make(**({"random_state": seed} if takes_seed else {}))

    def fit(self, points: np.ndarray) -> np.ndarray:
        self.model.fit(points)
        return np.asarray(self.model.decision_scores_)

    def score(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.decision_function(points))


# PyOD's names that may be asked for, and the module of each: those that judge new points, need no
# network and no further package.
PYOD = {
    "CBLOF": "cblof",
    "COPOD": "copod",
    "ECOD": "ecod",
    "GMM": "gmm",
    "HBOS": "hbos",
    "IForest": "iforest",
    "INNE": "inne",
    "KDE": "kde",
    "KNN": "knn",
    "LODA": "loda",
    "LOF": "lof",
    "MCD": "mcd",
    "OCSVM": "ocsvm",
    "PCA": "pca",
}


def _sklearn(module: str, detector: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ConfigError(
            f"the detector {detector!r} needs scikit-learn, which is not installed; "
            "pip install 'foreshock[baselines]'."
        ) from error


# -------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True, slots=True)
class _FittedRows:
    """A joint score of each row; what falls on a KPI is its share by distance from its own median."""

    scale: RowScale
    model: PointModel | None  # None where no KPI changed in the rows learned from
    usual: float

    def judge(self, values: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        off = self.scale(values[-rows:])
        # No model: distance from what never changed.
        system = np.sqrt((off**2).mean(1)) if self.model is None else self.model.score(off) / self.usual
        return share(system, off), system


class RowLearner:
    """A point model over the rows of all KPIs, in spreads from the median; missing is the past median."""

    supervised, fills, reach = False, False, 0

    def __init__(self, make: Callable[[], PointModel], facts: dict[str, Any], cap: float = CAP) -> None:
        make()  # what is missing is told when the detector is loaded, not when it is used
        self.make = make
        self.cap = cap  # spreads from the median beyond which a value counts no more
        self.facts = facts

    def learn(self, values: np.ndarray, truth: np.ndarray | None) -> Fitted:
        scale = RowScale(values, self.cap)
        if not scale.changes.any():
            return _FittedRows(scale, None, 1.0)
        model = self.make()
        usual = float(np.mean(model.fit(scale(values[_evenly(len(values))]))))
        return _FittedRows(scale, model, usual if usual > 0 else 1.0)

    def describe(self) -> dict[str, Any]:
        return self.facts

    def judge_offline(self, fitted: Fitted, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return fitted.judge(values, len(values))


def _evenly(count: int, most: int = MOST_ROWS) -> np.ndarray:
    """Indices of at most so many of `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


@dataclass(frozen=True, slots=True)
class _FittedPca:
    """The error of each KPI when a row is rebuilt from the main axes, over its usual error."""

    scale: RowScale
    center: np.ndarray  # (K,)
    axes: np.ndarray  # (n, K)
    usual: np.ndarray  # (K,)

    def judge(self, values: np.ndarray, rows: int) -> tuple[np.ndarray, None]:
        off = self.scale(values[-rows:]) - self.center
        return soften(np.abs(off - (off @ self.axes.T) @ self.axes) / self.usual), None


class PcaLearner:
    """Rows rebuilt from the axes that explain most of the training part.

    Source: Jackson and Mudholkar 1979 (the residual of PCA); 90 % of variance kept. Numpy alone.
    """

    supervised, fills, reach = False, False, 0

    def __init__(self, explained: float) -> None:
        if not 0 < explained < 1:
            raise ConfigError(f"the share of variance explained is {explained}; it must lie between 0 and 1.")
        self.explained = explained

    def learn(self, values: np.ndarray, truth: np.ndarray | None) -> Fitted:
        scale = RowScale(values)
        off = scale(values[_evenly(len(values))])
        center = off.mean(0)
        _, size, axes = np.linalg.svd(off - center, full_matrices=False)
        part = np.cumsum(size**2) / max(float((size**2).sum()), 1e-300)
        # At least one axis is left out, or every row would be rebuilt perfectly.
        kept = min(int(np.searchsorted(part, self.explained)) + 1, values.shape[1] - 1)
        axes = axes[:kept]
        error = off - center - ((off - center) @ axes.T) @ axes
        # A KPI that the axes follow closely is not believed more than to a tenth of its spread.
        usual = np.where(scale.changes, np.maximum(np.sqrt((error**2).mean(0)), 0.1), 1.0)
        return _FittedPca(scale, center, axes, usual)

    def describe(self) -> dict[str, Any]:
        return {"explained": self.explained, "source": "Jackson and Mudholkar 1979"}

    def judge_offline(self, fitted: Fitted, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return fitted.judge(values, len(values))


# ----------------------------------------------------------------------------------------------- windows


@dataclass(frozen=True, slots=True)
class _KpiWindows:
    """What was learned of one KPI; without a model (it never changed) a window's distance from its level."""

    center: float
    spread: float
    model: PointModel | None
    usual: float
    normalized: bool

    def score(self, windows: np.ndarray) -> np.ndarray:
        """(N, window) → (N,) over what is usual."""
        off = (windows - self.center) / self.spread
        if self.model is None:
            return np.asarray(np.sqrt((off**2).mean(1)))
        return self.model.score(_unit(off) if self.normalized else off) / self.usual


def _unit(windows: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 in each window, 0 where it is flat."""
    off = windows - windows.mean(1, keepdims=True)
    spread = off.std(1, ddof=1, keepdims=True)
    return np.where(spread > 1e-9, off / np.where(spread > 0, spread, 1), 0.0)


@dataclass(frozen=True, slots=True)
class _FittedWindows:
    window: int
    kpis: tuple[_KpiWindows | None, ...]  # None where nothing was observed

    def judge(self, values: np.ndarray, rows: int) -> tuple[np.ndarray, None]:
        return soften(self.raw(values, rows)), None

    def raw(self, values: np.ndarray, rows: int) -> np.ndarray:
        """The windows that end with each of the last rows, (rows, K); NaN where one is not complete."""
        out = np.full((rows, values.shape[1]), np.nan)
        known = values[-(rows + self.window - 1) :]
        if len(known) < self.window:
            return out
        for k, one in enumerate(self.kpis):
            if one is not None and np.isfinite(known[:, k]).all():
                windows = np.lib.stride_tricks.sliding_window_view(known[:, k], self.window)
                out[-len(windows) :, k] = one.score(windows)[-rows:]
        return out


class WindowLearner:
    """A point model for each KPI over its last `window` values; gaps hold the value before them."""

    supervised, fills = False, True

    def __init__(
        self,
        make: Callable[[], PointModel],
        window: int,
        facts: dict[str, Any],
        *,
        normalized: bool,
        most: int | None = MOST_ROWS,
        averaged: bool = False,
    ) -> None:
        make()
        if window < 2:
            raise ConfigError(f"the window has {window} rows; it must be 2 or more.")
        self.make = make
        self.window = window
        self.reach = window - 1
        self.facts = facts
        self.normalized = normalized
        self.most = most
        self.averaged = averaged  # offline, over all windows that hold a row

    def learn(self, values: np.ndarray, truth: np.ndarray | None) -> Fitted:
        center, mad = median_and_mad(values)
        spread = spread_of(values, np.nan_to_num(center), np.nan_to_num(mad))
        return _FittedWindows(
            self.window,
            tuple(
                self._learn_one(values[:, k], float(center[k]), float(spread[k]))
                for k in range(values.shape[1])
            ),
        )

    def _learn_one(self, values: np.ndarray, center: float, spread: float) -> _KpiWindows | None:
        if not np.isfinite(values).all() or len(values) < self.window:
            return None
        if np.ptp(values) <= 1e-9 * abs(center):
            return _KpiWindows(center, spread, None, 1.0, False)
        windows = np.lib.stride_tricks.sliding_window_view(values, self.window)
        windows = (windows[_evenly(len(windows), self.most or len(windows))] - center) / spread
        model = self.make()
        usual = float(np.mean(model.fit(_unit(windows) if self.normalized else windows)))
        return _KpiWindows(center, spread, model, usual if usual > 0 else 1.0, self.normalized)

    def describe(self) -> dict[str, Any]:
        return {"window": self.window, "normalized": self.normalized, **self.facts}

    def judge_offline(self, fitted: Fitted, values: np.ndarray) -> tuple[np.ndarray, None]:
        """Each window's score at its middle row, or averaged over its rows; the ends repeat the next one."""
        assert isinstance(fitted, _FittedWindows)
        raw = fitted.raw(values, len(values))
        full = raw[self.window - 1 :]
        if not len(full):
            return raw, None
        if self.averaged:
            total = np.cumsum(np.pad(full, ((self.window, self.window - 1), (0, 0))), 0)
            count = np.cumsum(np.pad(np.ones(len(full)), (self.window, self.window - 1)))
            return (total[self.window :] - total[: -self.window]) / (
                count[self.window :] - count[: -self.window]
            )[:, None], None
        before = self.window // 2
        return np.pad(full, ((before, self.window - 1 - before), (0, 0)), mode="edge"), None


# ------------------------------------------------------------------------------------------ with labels


class _FittedClassifier:
    def __init__(self, scale: RowScale, model: Any, windows: tuple[int, ...]) -> None:
        self.scale, self.model, self.windows = scale, model, windows

    def judge(self, values: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        off = self.scale(values)
        system = self.model.predict_proba(features(off, self.windows)[-rows:])[:, 1]
        return share(system, off[-rows:]), system


class LabelLearner:
    """A classifier on values, steps and rolling statistics, from the training part's labels."""

    supervised, fills = True, False

    def __init__(self, make: Callable[[], Any], windows: tuple[int, ...], facts: dict[str, Any]) -> None:
        make()
        self.make, self.windows, self.facts = make, windows, facts
        self.reach = 2 * max(windows)

    def learn(self, values: np.ndarray, truth: np.ndarray | None) -> Fitted:
        assert truth is not None
        scale = RowScale(values)
        rows = np.isfinite(truth)
        model = self.make()
        model.fit(features(scale(values), self.windows)[rows], truth[rows].astype(int))
        return _FittedClassifier(scale, model, self.windows)

    def describe(self) -> dict[str, Any]:
        return {"windows": list(self.windows), **self.facts}

    def judge_offline(self, fitted: Fitted, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return fitted.judge(values, len(values))


def features(off: np.ndarray, windows: tuple[int, ...]) -> np.ndarray:
    """Values (T, K) → (T, F): values, steps, and mean and standard deviation of the last rows, causal.

    Rounded to float32, as the trees do anyway, so that a stream and a whole recording agree.
    """
    columns = [off, np.diff(off, axis=0, prepend=off[:1])]
    for window in windows:
        total = np.cumsum(off, 0)
        total[window:] = total[window:] - total[:-window]
        columns.append(total / np.minimum(np.arange(1, len(off) + 1), window)[:, None])
        columns.append(np.sqrt(np.round(rolling_variance(off, window), 9)))
    return np.round(np.concatenate(columns, axis=1), 5).astype(np.float32)


# ---------------------------------------------------------------------------------------------- detectors


def isolation_forest(seed: int = 0, trees: int = 100, window: int = 1, causal: bool = True) -> FittedDetector:
    """Isolation forest over rows, or over each KPI's windows of more than one row (Sub-IForest)."""
    facts = {"seed": seed, "trees": trees, "source": "Liu et al. 2008"}
    make = lambda: IsolationForest(seed, trees)  # noqa: E731
    # Cuts, not distances: no value can drown others, so none is cut off.
    return _rows_or_windows("isolation_forest", make, window, facts, causal, cap=float("inf"))


def pca(explained: float = 0.9, causal: bool = True) -> FittedDetector:
    """The residual of PCA over rows."""
    return FittedDetector("pca", PcaLearner(explained), causal)


def sub_pca(window: int = 32, causal: bool = True) -> FittedDetector:
    """PCA over each KPI's windows, as TSB-AD's Sub-PCA."""
    facts = {"source": "Shyu et al. 2003; Liu and Paparrizos 2024 (TSB-AD)"}
    learner = WindowLearner(SubPca, window, facts, normalized=False, most=MOST_ROWS if causal else None)
    return FittedDetector("sub_pca", learner, causal)


def knn(neighbors: int = 10, window: int = 1, causal: bool = True) -> FittedDetector:
    """Nearest neighbours over rows, or over each KPI's windows of more than one row (Sub-KNN)."""
    facts = {"neighbors": neighbors, "source": "Ramaswamy et al. 2000"}
    return _rows_or_windows("knn", lambda: NearestNeighbors(neighbors), window, facts, causal)


def kmeans_ad(seed: int = 0, clusters: int = 20, window: int = 20, causal: bool = True) -> FittedDetector:
    """k-means over each KPI's windows, as TSB-AD's KMeansAD; at most 1,024 windows are learned from."""
    facts = {"seed": seed, "clusters": clusters, "source": "Yairi et al. 2001; TimeEval and TSB-AD"}
    learner = WindowLearner(
        lambda: KMeans(seed, clusters),
        window,
        facts,
        normalized=True,
        most=1024 if causal else None,
        averaged=True,
    )
    return FittedDetector("kmeans_ad", learner, causal)


def random_forest(
    seed: int = 0, trees: int = 200, windows: tuple[int, ...] = (8, 32), causal: bool = True
) -> FittedDetector:
    """Random forest on engineered features, supervised; causal however it is asked.

    Source: Breiman 2001; 200 trees, classes balanced, leaves of 2 rows.
    """
    make = lambda: _sklearn("ensemble", "random_forest").RandomForestClassifier(  # noqa: E731
        trees, min_samples_leaf=2, class_weight="balanced_subsample", random_state=seed, n_jobs=1
    )
    facts = {"seed": seed, "trees": trees, "source": "Breiman 2001"}
    return FittedDetector("random_forest", LabelLearner(make, tuple(windows), facts), causal)


def gradient_boosting(
    rounds: int = 100, windows: tuple[int, ...] = (8, 32), causal: bool = True
) -> FittedDetector:
    """Gradient boosting on the same features, supervised. It draws nothing, so it takes no seed.

    Source: Friedman 2001, with binned values as Ke et al. 2017; trees of 15 leaves of at least 5 rows,
    classes balanced, no early stopping.
    """
    make = lambda: _sklearn("ensemble", "gradient_boosting").HistGradientBoostingClassifier(  # noqa: E731
        max_iter=rounds, max_leaf_nodes=15, min_samples_leaf=5, max_bins=63, l2_regularization=1.0,
        class_weight="balanced", early_stopping=False, random_state=0,
    )  # fmt: skip
    facts = {"rounds": rounds, "source": "Friedman 2001; Ke et al. 2017"}
    return FittedDetector("gradient_boosting", LabelLearner(make, tuple(windows), facts), causal)


def pyod(name: str, seed: int = 0, window: int = 1, causal: bool = True) -> FittedDetector:
    """A detector of PyOD with its own defaults, over rows or over each KPI's windows.

    Raises:
        ConfigError: PyOD is not installed.
    """
    facts = {"seed": seed, "source": f"PyOD {name}, Zhao et al. 2019"}
    return _rows_or_windows(f"pyod:{name}", lambda: PyodModel(name, seed), window, facts, causal)


def _rows_or_windows(
    name: str,
    make: Callable[[], PointModel],
    window: int,
    facts: dict[str, Any],
    causal: bool,
    cap: float = CAP,
) -> FittedDetector:
    if window == 1:
        return FittedDetector(name, RowLearner(make, {"window": 1, **facts}, cap), causal)
    most = MOST_ROWS if causal else None
    return FittedDetector(name, WindowLearner(make, window, facts, normalized=True, most=most), causal)
