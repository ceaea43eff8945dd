"""Detectors: what turns a frame into scores. A table of callables, one line each.

Adding one: a function that takes options and returns a Detector, a line in DETECTORS,
a paragraph in the docs; the contract in tests/test_detectors.py then runs over it.
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


def _foreshock(**options: Any) -> Detector:
    from foreshock.models.reconstruct import moment_detector

    return moment_detector("foreshock", **options)


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
_SHARED = ("expectations", "detector", "options", "layout", "kpis")


def copy_of(stream: ScoreStream) -> ScoreStream:
    """A stream in the same state that goes its own way; networks and options are shared.

    Pushing to a copy first leaves the stream as it was if memory runs out half-way.
    """
    shared = [vars(stream)[name] for name in _SHARED if name in vars(stream)]
    return copy.deepcopy(stream, {id(one): one for one in shared})


DETECTORS: dict[str, Callable[..., Detector]] = {
    "foreshock": _foreshock,
    "moment_published": _moment_published,
    "past_median": _with_expectation("past_median"),
    "last_value": _with_expectation("last_value"),
    "linear_ar": _with_expectation("linear_ar"),
    "rolling_variance": _one_liner("rolling_variance"),
    "squared_difference": _one_liner("squared_difference"),
    "random": _one_liner("random"),
}


def load_detector(name: str = "foreshock", **options: Any) -> Detector:
    """A detector by its name, with its options checked.

    Raises:
        ConfigError: no such detector, or an option it does not have.
    """
    if name not in DETECTORS:
        near = difflib.get_close_matches(name, DETECTORS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no detector {name!r}; {hint}known: {', '.join(DETECTORS)}.")
    try:
        return DETECTORS[name](**options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        option = str(error).rsplit("'", 2)[-2]
        raise ConfigError(f"the detector {name!r} has no option {option!r}.") from error
