"""Writes the README's figures in words, from benchmarks/results/. Run by `make docs`."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

from records import read
from tables import filled

from foreshock.evaluate.tables import by_series, latest

PAGE = Path(__file__).parents[1] / "README.md"
OURS, ALONE, RANDOM = "foreshock", "foreshock, evidence alone", "untrained"
AS_GOOD = 0.01  # a family on which random weights are no more behind than that


def page() -> str:
    return filled(PAGE.read_text("utf-8"), {"honest": [*textwrap.wrap(words(), 118), ""]})


def words() -> str:
    """Ours, the best that sees no label, random weights, and where we are behind."""
    back, both = (families(name) for name in ("evaluate.jsonl", "offline.jsonl"))
    own = back[OURS]
    rivals = [found for detector, found in back.items() if detector not in (OURS, ALONE, RANDOM)]
    behind = [data for data in own if any(found[data] > own[data] for found in rivals)]
    level = [data for data in own if back[RANDOM][data] > back[ALONE][data] - AS_GOOD]
    ours, theirs, best = mean(back, OURS), mean(back, RANDOM), best_of(back)
    best_both = best_of(both)
    return (
        f"Over {len(own)} families of development data (one fixed configuration, no label seen), mean VUS-PR "
        f"looking back only is {ours}; the best baseline that sees no labels, {spoken(best)}, has "
        f"{mean(back, best)}. Without what simulated systems taught it is {mean(back, ALONE)}, and so, with "
        f"random weights, {theirs}. Looking both ways, as most published figures do, it is "
        f"{mean(both, OURS)}, {mean(both, best_both)} ({spoken(best_both)}), {mean(both, ALONE)} and "
        f"{mean(both, RANDOM)}. It is **not** best everywhere: looking back, some baseline is ahead on "
        f"{listed(behind)}, and random weights are as good on {listed(level)}. {published()} "
        "The detector's design was chosen on these data, so they are no test."
    )


def published() -> str:
    records = read("published.jsonl")
    back, both = ([r for r in records if r["method"] == f"{OURS} ({how})"] for how in ("causal", "both ways"))
    ours = [f"{statistics.mean(r['vus_pr'] for r in some):.2f}" for some in (back, both)]
    theirs = [
        f"{statistics.mean(r['published'][column] for r in back):.2f} for {column}"
        for column in back[0]["published"]
    ]
    return (
        f"On {len(back)} files of TSB-AD-U, in that benchmark's variant, it has {ours[0]} looking back and "
        f"{ours[1]} both ways; published are {listed(theirs)}."
    )


def families(records: str) -> dict[str, dict[str, float]]:
    """detector → family → mean VUS-PR, of those that see no label and have all the families that we have."""
    done = [r for r in latest(read(records)) if r["status"] == "done" and not r["supervised"]]
    out: dict[str, dict[str, float]] = {}
    for detector, found in by_series(done, "vus_pr").items():
        groups: dict[str, list[float]] = {}
        for (data, _), value in found.items():
            groups.setdefault(data, []).append(value)
        out[detector] = {data: statistics.mean(values) for data, values in groups.items()}
    return {detector: found for detector, found in out.items() if found.keys() == out[OURS].keys()}


def mean(figures: dict[str, dict[str, float]], detector: str) -> str:
    return f"{statistics.mean(figures[detector].values()):.2f}"


def best_of(figures: dict[str, dict[str, float]]) -> str:
    """The rival with the highest mean."""
    return max(figures.keys() - {OURS, ALONE, RANDOM}, key=lambda one: statistics.mean(figures[one].values()))


def spoken(detector: str) -> str:
    """
    Example:
        >>> spoken("rolling_variance 16"), spoken("squared_difference")
        ('rolling variance over 16 rows', 'squared difference')
    """
    name, _, rows = detector.replace("_", " ").rpartition(" ")
    return f"{name} over {rows} rows" if rows.isdigit() else detector.replace("_", " ")


def listed(words: Sequence[str]) -> str:
    """
    Example:
        >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
        ('a, b and c', 'a', 'none')
    """
    if len(words) < 2:
        return "".join(words) or "none"
    return f"{', '.join(words[:-1])} and {words[-1]}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
