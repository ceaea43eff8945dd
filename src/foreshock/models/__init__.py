"""Detectors: what turns a frame into scores. A table of callables, one line each.

Adding one: a function that takes options and returns a Detector, a line in DETECTORS,
a paragraph in docs/detectors.md; the contract in tests/test_detectors.py then runs over it.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from foreshock.errors import ConfigError
from foreshock.frame import Frame
from foreshock.scores import Scores


@runtime_checkable
class ScoreStream(Protocol):
    """Scores rows as they come; pieces of any size give what the whole frame gives."""

    def push(self, piece: Frame) -> Scores:
        """Score the next rows, later than all before."""
        ...


@runtime_checkable
class Detector(Protocol):
    """What every detector offers. Labels in a frame are never read."""

    name: str

    def score(self, frame: Frame) -> Scores:
        """Score all rows: (T,) system, (T, S) services, (T, K) KPIs; NaN where nothing was observed."""
        ...

    def stream(self) -> ScoreStream:
        """A fresh stream with the same options."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for the run log: options, weights and their hash, parameters."""
        ...


@runtime_checkable
class LearningDetector(Detector, Protocol):
    """A detector with a training part. Only a supervised one reads labels, in `fit` and nowhere else."""

    supervised: bool  # learns from labels
    needs_fit: bool  # can't score yet; others learn from the past of what they score

    def fit(self, frame: Frame) -> Any:
        """Learn from this frame alone, and return the detector itself."""
        ...


def fit(detector: Detector, train: Frame) -> Detector:
    """Fit a detector on the training part, if it is one that learns; labels go to supervised ones only.

    Raises:
        FrameError: too few rows, or no labels of both kinds for a supervised one.
    """
    if isinstance(detector, LearningDetector):
        detector.fit(train if detector.supervised else train.without_labels())
    return detector


def looking_both_ways(detector: Any) -> Any:
    """The detector, looking both ways in time; None where that means nothing to it.

    It does for the default detector alone, and not for scores that an adapter taught.
    """
    from foreshock.models.bidirectional import BidirectionalDetector
    from foreshock.models.vigil import VigilDetector

    if not isinstance(detector, VigilDetector) or getattr(detector, "threshold", None) is not None:
        return None
    return BidirectionalDetector(detector)


def _foreshock(adapter: Any = None, known: bool = True, **options: Any) -> Detector:
    """The default detector; without `known`, without what simulated systems taught (models.known)."""
    from foreshock.models.known import knowing
    from foreshock.models.reconstruct import moment_detector

    detector = moment_detector("foreshock", **options)
    detector = knowing(detector) if known else detector
    if not adapter:
        return detector
    from foreshock.models.lora import with_adapter

    return with_adapter(detector, adapter)


def _moment_published(**options: Any) -> Detector:
    from foreshock.models.reconstruct import PublishedDetector

    return PublishedDetector(**options)


def _with_expectation(name: str) -> Callable[..., Detector]:
    def build(**options: Any) -> Detector:
        from foreshock.models.oneline import expectation_detector

        return expectation_detector(name, **options)

    return build


def _one_liner(name: str) -> Callable[..., Detector]:
    def build(**options: Any) -> Detector:
        from foreshock.models.oneline import OneLiner

        return OneLiner(name, **options)

    return build


# What a stream reads and never changes: networks, options, names.
_SHARED = ("expectations", "recogniser", "detector", "options", "layout", "kpis", "fitted", "finder")


def copy_of(stream: ScoreStream) -> ScoreStream:
    """A stream in the same state that goes its own way; networks and options are shared.

    Pushing to a copy first leaves the stream as it was if memory runs out half-way.
    """
    streams = [stream, *vars(stream).get("streams", ())]  # an ensemble holds those of its members
    shared = [vars(one)[name] for one in streams for name in _SHARED if name in vars(one)]
    return copy.deepcopy(stream, {id(one): one for one in shared})


def _untrained(seed: int = 0, **options: Any) -> Detector:
    """nano's shape with random weights, in the place of nano: what the pipeline does without training."""
    import torch

    from foreshock.models.moment import Moment, load_moment
    from foreshock.models.recognise import Recogniser
    from foreshock.models.reconstruct import moment_detector
    from foreshock.models.vigil import VigilDetector

    if "model" in options:
        raise ConfigError("the detector 'untrained' has no option 'model'; it is nano's shape.")
    config = load_moment("nano").config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Recogniser(Moment(config)).eval()
    detector = moment_detector("untrained", model=network, **options)
    detector.facts["model"], detector.facts["seed"] = "nano's shape, random weights", seed
    if isinstance(detector, VigilDetector):
        detector.guess = None  # it is of a trained network
    return detector


def _classical(name: str) -> Callable[..., Detector]:
    def build(**options: Any) -> Detector:
        from foreshock.models import classical

        made: Detector = getattr(classical, name)(**options)
        return made

    return build


def _lstm_autoencoder(**options: Any) -> Detector:
    from foreshock.models.lstm import lstm_autoencoder

    return lstm_autoencoder(**options)


def _rank_average(**options: Any) -> Detector:
    from foreshock.models.ensemble import rank_average

    return rank_average(load_detector, **options)


DETECTORS: dict[str, Callable[..., Detector]] = {
    "foreshock": _foreshock,
    "moment_published": _moment_published,
    "past_median": _with_expectation("past_median"),
    "last_value": _with_expectation("last_value"),
    "linear_ar": _with_expectation("linear_ar"),
    "rolling_variance": _one_liner("rolling_variance"),
    "squared_difference": _one_liner("squared_difference"),
    "robust_z": _one_liner("robust_z"),
    "spectral_residual": _one_liner("spectral_residual"),
    "poly": _one_liner("poly"),
    "matrix_profile": _one_liner("matrix_profile"),
    "random": _one_liner("random"),
    "untrained": _untrained,
    "isolation_forest": _classical("isolation_forest"),
    "pca": _classical("pca"),
    "sub_pca": _classical("sub_pca"),
    "knn": _classical("knn"),
    "kmeans_ad": _classical("kmeans_ad"),
    "lstm_autoencoder": _lstm_autoencoder,
    "random_forest": _classical("random_forest"),
    "gradient_boosting": _classical("gradient_boosting"),
    "rank_average": _rank_average,
}


def load_detector(name: str = "foreshock", **options: Any) -> Detector:
    """A detector by its name, with its options checked; `pyod:ECOD` is PyOD's detector of that name.

    Raises:
        ConfigError: no such detector, an option it does not have, or a package that is not installed.
    """
    build = _pyod(name) if name.startswith("pyod:") else DETECTORS.get(name)
    if build is None:
        near = difflib.get_close_matches(name, DETECTORS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"there is no detector {name!r}; {hint}known: {', '.join(DETECTORS)}, pyod:<its name in PyOD>."
        )
    try:
        return build(**options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        option = str(error).split("'")[1]  # Python 3.13 goes on with what was perhaps meant
        raise ConfigError(f"the detector {name!r} has no option {option!r}.") from error


def _pyod(name: str) -> Callable[..., Detector]:
    from foreshock.models.classical import PYOD, pyod

    asked = name.partition(":")[2]
    if asked not in PYOD:
        near = difflib.get_close_matches(asked.lower(), [known.lower() for known in PYOD], 1)
        meant = [known for known in PYOD if near and known.lower() == near[0]]
        hint = f"did you mean 'pyod:{meant[0]}'? " if meant else ""
        raise ConfigError(f"PyOD's {asked!r} can't be used here; {hint}known: {', '.join(PYOD)}.")
    return lambda **options: pyod(asked, **options)
