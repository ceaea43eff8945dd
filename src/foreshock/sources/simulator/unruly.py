"""What monitoring shows of systems in good health and no queue explains: rows that are odd and mean nothing.

A scrape that came late tells less of a container's processor and network, and the next one more. Somebody's
single call takes seconds. A machine is busy with something else for a minute, users come in a bunch, a
collector runs. What is learned on calm that lacks all this takes it for incidents in real systems
(docs/log.md, 2026-11-28). How often each happens differs from system to system, from never to every
thirtieth row or so.

Not here: noise that belongs to a scrape of the simulated shops themselves (observe, scrape).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEVER = 0.4  # chance of a system in which one of these does not happen at all
MACHINE = 6  # services on a machine, about


def unruly(
    values: np.ndarray, what: Sequence[str], services: Sequence[str], rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The same rows, less calm.

    Args:
        values: (R, K). what: of each column, as `invented.quantity_of` gives it. services: of each column.

    Returns:
        (R, K); and of each service (R,), by how much what its container counts is told too low or too high.
    """
    rows, names = len(values), list(dict.fromkeys(services))
    of = np.array([names.index(name) for name in services])
    is_cpu, is_calls, is_latency, is_error = (
        np.isin(np.array(what), kinds) for kinds in (["cpu"], ["calls"], ["latency", "traced"], ["errors"])
    )
    late = _late(rng, rows, len(names))
    bursts = 1 + _spells(rng, (rows, 1), 0.0005, 0.005, 5) * rng.uniform(0.1, 0.6, (rows, 1))
    machine = rng.integers(max(1, len(names) // MACHINE), size=len(names))
    busy = _spells(rng, (rows, int(machine.max()) + 1), 0.0005, 0.005, 4)[:, machine]
    jumps = _spells(rng, values.shape, 0.0003, 0.005, 2)
    factor = np.exp(jumps * rng.standard_normal(values.shape) * rng.uniform(0.2, 0.8))
    factor[:, is_calls] *= bursts
    factor[:, is_cpu] *= late[:, of[is_cpu]] * (1 + (bursts - 1) * 0.7)
    factor[:, is_cpu] *= 1 + busy[:, of[is_cpu]] * rng.uniform(0.1, 1.0, (rows, 1))
    slow = _spells(rng, (rows, int(is_latency.sum())), 0.001, 0.03, 1)
    factor[:, is_latency] *= np.exp(slow * rng.uniform(0.3, 3.0, slow.shape))
    factor[:, is_latency] *= 1 + busy[:, of[is_latency]] * rng.uniform(0.05, 0.5, (rows, 1))
    factor[:, [kind == "memory" for kind in what]] = 1.0
    factor[:, is_error] = 1.0
    out = values * factor
    most = np.where(np.isfinite(values), values, 0).max(axis=0, initial=0)
    out[:, is_cpu] = np.minimum(out[:, is_cpu], np.maximum(most[is_cpu], 100.0))
    failed = _spells(rng, (rows, int(is_error.sum())), 0.001, 0.02, 2)
    out[:, is_error] = np.minimum(out[:, is_error] + failed * rng.exponential(0.05, failed.shape), 1.0)
    return out, {name: late[:, i] for i, name in enumerate(names)}


def _often(rng: np.random.Generator, least: float, most: float) -> float:
    """The chance of a row, of one system."""
    return 0.0 if rng.random() < NEVER else float(np.exp(rng.uniform(np.log(least), np.log(most))))


def _spells(
    rng: np.random.Generator, shape: tuple[int, ...], least: float, most: float, longest: int
) -> np.ndarray:
    """(R, N) 1.0 in rows in which something happens, `longest` of them at most in a row, else 0."""
    begins = rng.random(shape) < _often(rng, least, most)
    lasts, out = rng.integers(1, longest + 1, size=shape), begins.copy()
    for row in range(1, longest):
        out[row:] |= (begins & (lasts > row))[:-row]
    return out.astype(float)


def _late(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """(R, S) what a container's rates are told as: too low where a scrape came late, and then too high."""
    lacks = _spells(rng, (rows, count), 0.002, 0.03, 1) * rng.uniform(0.1, 0.9, (rows, count))
    made_up = np.zeros_like(lacks)
    made_up[1:] = (lacks * (rng.random(lacks.shape) < 0.7))[:-1]
    return np.asarray(1 - lacks + made_up)
