"""Finds what is going wrong in a microservice system before it becomes an outage, from its metrics alone.

    >>> import foreshock
    >>> frame = foreshock.read("demo:")
    >>> scores = foreshock.load_detector("foreshock").score(frame)  # doctest: +SKIP

Every public name is imported when it is first asked for, so `import foreshock` costs nothing. The verbs
that share their name with their module are reached through it: `foreshock.decide.decide`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreshock.config import Settings as Settings
    from foreshock.decide import Event as Event
    from foreshock.decide import Rules as Rules
    from foreshock.errors import ForeshockError as ForeshockError
    from foreshock.explain import Cause as Cause
    from foreshock.frame import Frame as Frame
    from foreshock.frame import Kpi as Kpi
    from foreshock.frame import Labels as Labels
    from foreshock.memory import Budget as Budget
    from foreshock.models import load_detector as load_detector
    from foreshock.models.finetune import finetune as finetune
    from foreshock.models.moment import Moment as Moment
    from foreshock.models.moment import load_moment as load_moment
    from foreshock.quality import Quality as Quality
    from foreshock.quality import inspect as inspect
    from foreshock.quality import repair as repair
    from foreshock.runlog import RunLog as RunLog
    from foreshock.scores import Scores as Scores
    from foreshock.sources import frames as frames
    from foreshock.sources import read as read

__version__ = "0.1.0"

# OpenMP's waiting threads spin by default, which costs a factor 3 to 10 beside another busy process.
# It is read once, when torch is loaded, so it has to be said before; a value already set is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOME = {
    "Budget": "memory",
    "Cause": "explain",
    "Event": "decide",
    "ForeshockError": "errors",
    "Frame": "frame",
    "Kpi": "frame",
    "Labels": "frame",
    "Moment": "models.moment",
    "Quality": "quality",
    "Rules": "decide",
    "RunLog": "runlog",
    "Scores": "scores",
    "Settings": "config",
    "frames": "sources",
    "inspect": "quality",
    "finetune": "models.finetune",
    "load_detector": "models",
    "load_moment": "models.moment",
    "read": "sources",
    "repair": "quality",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'foreshock' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"foreshock.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
