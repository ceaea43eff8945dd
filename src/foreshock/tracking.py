"""The same records in a tracker's own format: TensorBoard, MLflow, trackio. Never the only copy.

    tensorboard:DIR       event files below DIR                      pip install "foreshock[tensorboard]"
    mlflow:URI            an MLflow store, such as sqlite:///m.db    pip install "foreshock[mlflow]"
    trackio:PROJECT       a local trackio project                    pip install "foreshock[trackio]"

A record becomes numbers with dotted names (`foreshock/metrics.vus_pr`), at the step it tells or at the next
one. Adding a tracker is a function, a line in TRACKERS, a test and a paragraph in docs/evaluation.md.
"""

from __future__ import annotations

import difflib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from foreshock.errors import ConfigError, OutputError

Numbers = dict[str, float]
Write = Callable[[Numbers, int], None]  # numbers by name, at a step
LEFT_OUT = ("key", "seed", "at", "step", "commit", "threads", "cores", "protocol", "data_sha256", "sketch")


@dataclass(frozen=True, slots=True)
class Tracker:
    """An open run of a tracker."""

    write: Write
    close: Callable[[], None]


def tensorboard(place: str, run: str) -> Tracker:
    """Event files in PLACE/RUN; `tensorboard --logdir PLACE` shows them."""
    writer = _needed("tensorboard.summary", "tensorboard").Writer(
        str(Path(place or "runs/tensorboard") / run)
    )

    def write(numbers: Numbers, step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Tracker(write, writer.close)


def mlflow(place: str, run: str) -> Tracker:
    """A run of the experiment `foreshock` in the store at PLACE; without one, runs/mlflow.db."""
    if not place:
        Path("runs").mkdir(exist_ok=True)
    client = _needed("mlflow.tracking", "mlflow").MlflowClient(
        tracking_uri=place or "sqlite:///runs/mlflow.db"
    )
    metric = _needed("mlflow.entities", "mlflow").Metric
    experiment = client.get_experiment_by_name("foreshock")
    number = experiment.experiment_id if experiment else client.create_experiment("foreshock")
    run_id = client.create_run(number, run_name=run).info.run_id

    def write(numbers: Numbers, step: int) -> None:
        now = int(time.time() * 1000)
        # MLflow allows letters, digits and _-./ space in names.
        found = [metric(_plain(name), value, now, step) for name, value in numbers.items()]
        for first in range(0, len(found), 1000):  # MLflow's limit of a batch
            client.log_batch(run_id, metrics=found[first : first + 1000])

    return Tracker(write, lambda: client.set_terminated(run_id))


def trackio(place: str, run: str) -> Tracker:
    """A run of the local project PLACE; `trackio show` opens its page."""
    library = _needed("trackio", "trackio")
    library.init(project=place or "foreshock", name=run)
    return Tracker(lambda numbers, step: library.log(numbers, step=step), library.finish)


TRACKERS: dict[str, Callable[[str, str], Tracker]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
    "trackio": trackio,
}


@contextmanager
def tracking(places: Sequence[str], run: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that hands each record to every tracker; with none of them it does nothing.

    Args:
        places: such as `tensorboard` or `mlflow:sqlite:///m.db`.
        run: what this run is called there.

    Raises:
        ConfigError: no such tracker, or its package isn't installed.
        OutputError: the tracker's place can't be written.
    """
    opened = [_open(place, run) for place in places]
    seen: Counter[str] = Counter()

    def write(record: Mapping[str, Any]) -> None:
        group = str(record.get("detector") or "")
        numbers = numbers_of(record, f"{group}/" if group else "")
        step = record.get("step")
        at = int(step) if isinstance(step, int | float) else seen[group]
        seen[group] += 1
        for tracker in opened if numbers else ():
            tracker.write(numbers, at)

    try:
        yield write
    finally:
        for tracker in opened:
            tracker.close()


def numbers_of(record: Mapping[str, Any], before: str = "") -> Numbers:
    """Every finite number of a record by its dotted name; truth values, lists, words and hashes are left out.

    Example:
        >>> numbers_of({"metrics": {"f1": 0.5, "vus_pr": None}, "seed": 1, "rows": 10}, "pca/")
        {'pca/metrics.f1': 0.5, 'pca/rows': 10.0}
    """
    found: Numbers = {}
    for key, value in record.items():
        if key in LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            found |= numbers_of(value, f"{before}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{before}{key}"] = float(value)
    return found


def _open(told: str, run: str) -> Tracker:
    name, _, place = told.partition(":")
    if name not in TRACKERS:
        near = difflib.get_close_matches(name, TRACKERS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no tracker {name!r}; {hint}There are {', '.join(TRACKERS)}.")
    try:
        return TRACKERS[name](place, run)
    except OSError as error:
        raise OutputError(f"{told} can't be written ({error.strerror}); choose another place.") from error


def _needed(module: str, extra: str) -> Any:
    """A tracker's module.

    Raises:
        ConfigError: it isn't installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f'{extra} is not installed ({error}); run: pip install "foreshock[{extra}]", or leave it out.'
        ) from None


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)
