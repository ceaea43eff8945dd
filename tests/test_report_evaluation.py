"""The page about an evaluation: what it shows is what the records say, and nothing runs or loads."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from foreshock.errors import InputError
from foreshock.evaluate import RECALLS, report
from foreshock.report import evaluation
from foreshock.report.drawings import delay_curve, mean_precision, timeline
from foreshock.report.page import figure

LINE = {
    "start": "2026-03-02T00:00:00Z",
    "rows": 480,
    "step_s": 60.0,
    "score": [1.0, 2.0, None, 50.0] * 60,
    "high": 4.0,
    "faults": [[20, 24]],
    "alarms": [[19, 30], [100, 103]],
}


def made(detector, series, value, data="web", found=(1, 0), seed=0, **more):
    """One record as the protocol writes it, and its sketch."""
    told = {
        "found": list(found), "hours": 24.0, "false_alarms": 1, "alarms": 2, "delays_s": [120.0] * sum(found),
        "false_alarms_asked_per_day": 1.0,
    }  # fmt: skip
    return {
        "kind": "evaluation", "key": f"{detector}-{data}-{series}-{seed}", "status": "done", "data": data,
        "data_kind": "series", "series": series, "detector": detector, "seed": seed, "step_s": 60.0,
        "metrics": {"vus_pr": value, "average_precision": value}, "rows": 1000, "kpis": 1, "commit": "c" * 40,
        "thresholds": {"validation": told, "past": told}, "contamination": "", "supervised": False,
        "fault_types": ["memory_leak", "dns_failure"],
        "cost": {"fit_cpu_s": 1, "score_cpu_s": 1, "fit_wall_s": 0, "score_wall_s": 1, "peak_bytes": 2**20},
    } | more  # fmt: skip


def records():
    """Two families, four detectors, one of which learned from labels and lacks a family."""
    values = {"foreshock": 0.8, "random": 0.1, "rolling_variance": 0.4, "<b>odd</b> & name": 0.6}
    found = [
        made(name, series, value - 0.05 * i, data)
        for data in ("web", "disk")
        for name, value in values.items()
        for i, series in enumerate("abcd")
    ]
    found.append(made("forest", "a", 0.9, supervised=True))
    found.append(made("forest", "b", 0.0, status="refused", reason="the training part has no faulty row"))
    return found


def sketches_for(found):
    precision = [round(1 - 0.5 * r, 3) for r in RECALLS]
    return {r["key"]: {"precision": precision, "timeline": LINE} for r in found if r["status"] == "done"}


def test_the_page_says_what_the_records_say():
    """Verdict, leaderboard, paired rows, kinds, what was refused; markup in names stays text."""
    found = records()
    page = evaluation.html(found, sketches_for(found), title="night <i>run</i>")
    assert "<h1>foreshock is first of 4</h1>" in page
    assert "night &lt;i&gt;run&lt;/i&gt;" in page
    assert "<b>odd" not in page
    assert "0.725" in page  # mean of 0.8, 0.75, 0.7, 0.65
    assert "(0.900)" in page  # the forest lacks series
    assert "dns failure" in page
    assert "the training part has no faulty row" in page
    assert "+0.700" in page  # against the random score, on each series
    assert len(re.findall(r"<svg class=\"draw strip", page)) == 6  # three series of each family


def test_the_page_is_one_file():
    """No script, no link to anywhere but within the page, a policy that forbids loading."""
    found = records()
    page = evaluation.html(found, sketches_for(found))
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert all(target.startswith(("#", "data:")) for target in re.findall(r'(?:href|src)="([^"]*)"', page))


def test_old_records_have_no_curves_and_the_page_says_so():
    """Without sketches and kinds everything else is there."""
    found = [{k: v for k, v in r.items() if k != "fault_types"} for r in records()]
    page = evaluation.html(found, {})
    assert "there are no curves to draw" in page
    assert 'id="kinds"' not in page
    assert "Leaderboard" in page


def test_timelines_of_others_are_missed_by_name():
    """Sketches hold the score in time of one detector; asked about another, the page says what is missing."""
    found = records()
    drawn = {key: {"precision": s["precision"]} for key, s in sketches_for(found).items()}
    page = evaluation.html(found, drawn, ours="rolling_variance")
    assert "rolling_variance has none here" in page
    assert "draw square" in page
    assert "draw strip" not in page


def test_what_was_refused_is_told_once_a_detector():
    """Families and reasons in one fold."""
    found = [made("foreshock", "a", 0.5)]
    found += [made("forest", s, 0.0, d, status="refused", reason="short") for d in ("x", "y") for s in "ab"]
    page = evaluation.html(found, {})
    assert "<summary>forest, 4 series</summary>" in page
    assert page.count(", 2 series: short") == 2


def test_behind_is_said():
    """A rival that leads makes the headline honest, and a family where one leads is named."""
    found = records()
    better = [made("rival", s, 0.9, d) for d in ("web", "disk") for s in "abcd"]
    assert "foreshock is number 2 of 5" in evaluation.html(found + better, {})
    mixed = [made("rival", s, 0.9 if d == "disk" else 0.1, d) for d in ("web", "disk") for s in "abcd"]
    page = evaluation.html(found + mixed, {})
    assert "foreshock is first of 5" in page
    assert "Another one leads on disk." in page


def test_our_name_may_be_missing():
    """Records of others alone still make a page."""
    page = evaluation.html([made("x", "a", 0.5), made("y", "a", 0.6)], {}, ours="foreshock")
    assert "y leads" in page


def test_nothing_measured_is_refused():
    """No record that tells of a score: one sentence."""
    with pytest.raises(InputError, match="nothing to report"):
        evaluation.html([made("x", "a", 0.0, status="refused", reason="short")], {})


def test_one_class_and_no_fault_make_a_page():
    """Figures that are not defined become dashes."""
    page = evaluation.html([made("foreshock", "a", None, found=())], {})
    assert "–" in page
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S).lower()


def test_delays_are_shares_of_all_faults():
    """A fault never found keeps the curve below 1."""
    got = delay_curve([("a", "value", [0.0, 2.0], 4)])
    (row,) = got["rows"]
    assert (row["at_once"], row["never"], row["median"]) == (0.25, 0.5, 1.0)
    assert got["top"] == 0.5
    assert math.isnan(delay_curve([("a", "value", [], 4)])["rows"][0]["p90"])


def test_a_peak_does_not_flatten_the_rest():
    """The axis ends at three times the threshold; what lies above is cut, and told."""
    drawn = timeline(LINE, "a")
    assert drawn["is_cut"]
    assert 'y1="60.0"' in drawn["svg"]  # the threshold at a third of the height
    assert drawn["svg"].count("var(--alarm)") == 2
    calm = timeline(LINE | {"score": [None] * 240, "high": None, "faults": [], "alarms": []}, "b")
    assert not calm["is_cut"]


def test_one_series_a_family_is_never_sure():
    """Without a width nothing is coloured, and no interval is told."""
    found = [made(n, "a", v, d) for d in ("x", "y") for n, v in (("foreshock", 0.9), ("random", 0.1))]
    page = evaluation.html(found, {})
    assert 'class="dot better"' not in page
    assert "+0.800 to" not in page
    assert "+0.800" in page
    assert "[+0.800" not in "\n".join(report(found))


def test_the_floor_stands_in_every_table():
    """Kinds and delays tell of random, rolling variance and squared difference, drawn or not."""
    found = records() + [
        made(name, s, 0.3 + 0.01 * i, d)
        for i, name in enumerate(("squared_difference", "x", "y", "z"))
        for d in ("web", "disk")
        for s in "abcd"
    ]
    page = re.sub(r"<wbr>", "", evaluation.html(found, sketches_for(found)))
    for section in ("kinds", "delays"):
        text = re.search(rf'<section aria-labelledby="{section}">.*?</section>', page, re.S).group()
        for name in ("random", "rolling_variance", "squared_difference"):
            assert name in re.search("<table>.*</table>", text, re.S).group(), (section, name)


def test_mean_precision_is_by_recall():
    """Each recall for itself."""
    np.testing.assert_allclose(mean_precision([[1.0, 0.5], [0.0, 0.5]]), [0.5, 0.5])
    assert figure(0.5, 1) == "0.5"
