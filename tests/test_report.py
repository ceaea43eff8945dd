"""The page: one file, nothing loaded, every name escaped, incidents first, honest when empty."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from foreshock import report
from foreshock.calibrate import calibrate
from foreshock.decide import Event
from foreshock.errors import InputError, OutputError
from foreshock.explain import Cause, KpiFinding, ServiceFinding
from foreshock.frame import Frame, Kpi, Labels
from foreshock.report import incidents
from foreshock.scores import Scores

EVIL = "<script>alert('x')</script>"


def make_case(rows=400, service="cart", *, known=False):
    """A frame whose first KPI jumps at rows 300 to 320, its scores, threshold, event and cause."""
    rng = np.random.default_rng(0)
    kpis = (
        Kpi(f"{service}__cpu_pct", service, "cpu_pct", "%"),
        Kpi("web__latency_p90_s", "web", "latency", "s"),
    )
    values = rng.lognormal(0, 0.1, (rows, 2)) * [5, 0.1]
    values[300:320, 0] = 97
    values[50, 1] = np.nan
    time_ns = 1_772_438_400_000_000_000 + np.arange(rows) * 60 * 10**9
    labels = faults(rows) if known else None
    frame = Frame(time_ns, values, kpis, 60.0, labels, "/somewhere/private/shop.csv.gz")
    strange = rng.gamma(4, 0.2, (rows, 2)).astype(np.float32)
    strange[300:320, 0] = 9
    scores = Scores(
        time_ns, strange, strange, strange.max(1), kpis, (service, "web"), 60.0, "foreshock",
        expected=np.tile(np.float32([5, 0.1]), (rows, 1)),
    )  # fmt: skip
    threshold = calibrate(scores.system[:300], 60.0)
    return frame, scores, threshold, (make_event(frame, 300, 320),), (make_cause(frame, service),)


def faults(rows):
    anomaly = np.zeros(rows, bool)
    anomaly[300:320] = anomaly[100:105] = anomaly[350:352] = True
    fault_id = np.full(rows, -1)
    fault_id[300:320], fault_id[100:105], fault_id[350:352] = 1, 0, 2
    kind = np.where(anomaly, "cpu_contention", "").astype("<U20")
    cause = np.where(anomaly, "cart", "").astype("<U20")
    visible = np.ones(rows, bool)
    visible[350:352] = False
    return Labels(anomaly, kind, cause, np.zeros(rows, bool), fault_id, visible)


def make_event(frame, start, end, number=0, is_open=False):
    stamps = frame.time_ns
    return Event(
        id=number, start=start, end=end, start_ns=int(stamps[start]),
        end_ns=None if is_open else int(stamps[end - 1]), peak=start + 1, peak_ns=int(stamps[start + 1]),
        peak_score=9.0, threshold=2.5, confidence=0.998, detected=start + 1,
        detected_ns=int(stamps[start + 1]), rows_high=end - start, is_open=is_open,
    )  # fmt: skip


def make_cause(frame, service, sure=0.9):
    stamps = frame.time_ns
    finding = KpiFinding(
        name=frame.names[0], service=service, metric="cpu_pct", unit="%", kind="resource",
        before=5.0, limit=8.0, during=97.0, extreme=98.0, factor=19.4, direction="up", excess=30.0,
        strength=1.0, since=300, since_ns=int(stamps[300]), order=0, role="origin", text="CPU 5 % → 97 %",
    )  # fmt: skip
    later = replace(
        finding, name=frame.names[1], service="web", metric="latency", unit="s", before=0.1, during=1.3,
        since=302, since_ns=int(stamps[302]), order=1, role="symptom", factor=13.0,
    )  # fmt: skip
    own = ServiceFinding(service, 0.9, sure, 300, int(stamps[300]), (finding.name,), "CPU 5 % → 97 %")
    return Cause((own,), (later, finding), f"{service}: CPU 5 % → 97 % since 13:00", sure, 300, 2)


class Page(HTMLParser):
    """Tags with their attributes, visible text, and whether tags are closed in order."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page():
    return Page(
        report.html(*make_case(known=True), repaired=("2 duplicate rows dropped",), about={"model": "nano"})
    )


def test_the_incident_is_told(page):
    """Since when, how long, which service, before and during, how sure."""
    for words in (
        "1 incident in 6 h 40 min", "cart", "since 13:00, lasted 20 min", "over 99 %",
        "Most likely origin", "5 % → 97 %", "×19", "+2 min", "symptom", "cart: CPU 5 % → 97 % since 13:00",
    ):  # fmt: skip
        assert words in page.text, words
    rows = page.text.index("What changed")
    assert page.text.index("cpu_pct", rows) < page.text.index("latency", rows)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"fault_type": "memory_leak", "fault_chance": 0.87, "fault_type_from": "simulated systems"},
         "memory leak, 87 %"),
        ({"fault_type": "unknown", "fault_chance": 0.3, "fault_type_from": "simulated systems"}, "unknown"),
    ],
)  # fmt: skip
def test_the_kind_of_fault_is_told(page, kind, words):
    """With its probability and who taught it; a page without kinds says nothing of them."""
    told = Page(report.html(*make_case(), kinds=[kind])).text
    assert f"Kind of fault {words}" in told
    assert "learned from simulated systems" in told
    assert "Kind of fault" not in page.text
    with pytest.raises(InputError, match="a report needs"):
        report.html(*make_case(), kinds=[kind, kind])


def test_the_reason_is_told(page):
    """Threshold, promise, detector, repairs and findings have their place."""
    for words in (
        "1 false alarm a day",
        "none of the MOMENT-1 checkpoints",
        "Why so high",
        "nano",
        "2 duplicate rows dropped",
        "Missing values",
    ):
        assert words in page.text, words
    assert "shop.csv.gz" in page.text
    assert "/somewhere/private" not in page.text


@pytest.mark.parametrize("hindsight", [{"causal": False}, {"settled": 302}])
def test_what_later_rows_helped_to_see_was_never_noticed(page, hindsight):
    """Neither in the incident's facts nor beside the known fault; what detects says how it was judged."""
    frame, scores, *rest = make_case(known=True)
    told = Page(report.html(frame, replace(scores, **hindsight), *rest)).text
    for words in ("Noticed", "incident 1, after 1 min"):
        assert words in page.text
        assert words not in told
    assert "later ones, too" in told or "have seen later rows" in told
    assert "later ones, too" not in page.text


def test_known_faults_stand_apart(page):
    """Labels are compared with what was found, silent faults apart, and marked as never seen."""
    assert "1 of 2 known faults found, the right origin named for 1" in page.text
    assert "not found" in page.text
    assert "1 more fault left no trace in the metrics" in page.text
    assert "never saw them" in page.text
    assert "Known afterwards" not in Page(report.html(*make_case())).text


def test_one_file_that_loads_nothing(page):
    """No script, no address but anchors and data, and a policy that forbids the rest."""
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "base", "form"}
    for _, attrs in page.tags:
        for key in ("href", "src", "xlink:href", "srcset"):
            assert attrs.get(key, "#").startswith(("#", "data:"))
        assert not any(key.startswith("on") for key in attrs)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_headings_anchors_and_pictures_are_reachable(page):
    """One h1, no level skipped, ids unique, every anchor leads somewhere, every picture described."""
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        for key in ("href", "xlink:href"):
            if attrs.get(key, "").startswith("#"):
                assert attrs[key][1:] in ids
    pictures = [a for a in page.all("svg") if a.get("class") == "plot"]
    assert len(pictures) == 6
    assert all(a["role"] in ("img", "group") and len(a["aria-label"]) > 10 for a in pictures)
    assert page.all("html")[0]["lang"] == "en"


@pytest.mark.parametrize("name", [EVIL, '"><img src=x onerror=y>', "$x^2$", "a&amp;b", "カート", "{{ 7*7 }}"])
def test_names_are_escaped(name):
    """Whatever a service or KPI is called, it is shown as it is and never run."""
    frame, scores, threshold, events, causes = make_case(service=name)
    told = Page(report.html(frame, scores, threshold, events, causes, title=name, repaired=(name,)))
    assert name in told.text
    assert not {tag for tag, _ in told.tags} & {"script", "img"}
    assert "49" not in told.text or "7*7" not in name


def test_no_incident_is_a_sentence_not_a_gap():
    """An empty state says what was seen and what it does not promise."""
    frame, scores, threshold, _, _ = make_case()
    told = Page(report.html(frame, scores, threshold, (), ()))
    assert "No incident in 6 h 40 min" in told.text
    assert "Faults that leave no trace" in told.text


def test_missing_scores_are_no_sign_of_health():
    """Nothing scored, or no threshold learned: the page says that no alarm was possible."""
    frame, scores, threshold, _, _ = make_case()
    blind = replace(scores, system=np.full_like(scores.system, np.nan))
    told = Page(report.html(frame, blind, threshold, (), ()))
    assert "Nothing could be scored" in told.text
    assert "no sign of health" in told.text
    short = Page(report.html(frame, scores, None, (), ()))
    assert "Too short to tell" in short.text
    assert "no sign of health" in short.text
    for page in (told, short):
        assert not any(attrs.get("class") == "calm" for _, attrs in page.tags)


def test_running_and_unknown_incidents():
    """An open incident is still running; without a clear origin none is named."""
    frame, scores, threshold, _, _ = make_case()
    event = make_event(frame, 390, 400, is_open=True)
    told = Page(report.html(frame, scores, threshold, (event,), (make_cause(frame, "cart", sure=0.3),)))
    assert "one still running" in told.text
    assert "still running after 10 min" in told.text
    assert "Origin unclear: cart" in told.text
    nothing = Cause((), (), "unknown: only 2 calm rows before the event", 0.0, 2, 0)
    assert "Origin unknown" in Page(report.html(frame, scores, threshold, (event,), (nothing,))).text


def test_many_incidents_and_rows_stay_small():
    """20,000 rows and 220 incidents: a few megabytes, the rest counted."""
    frame, scores, threshold, _, _ = make_case(20_000)
    events = tuple(make_event(frame, 330 + 60 * i, 340 + 60 * i, i) for i in range(220))
    causes = tuple(make_cause(frame, "cart") for _ in events)
    page = report.html(frame, scores, threshold, events, causes)
    assert len(page.encode()) < 3_000_000
    assert "And 20 more incidents, not shown." in page
    assert page.count("<figure>") == 2 * incidents.MOST_PICTURED


def test_same_input_same_page():
    """Nothing of the clock or of chance, so pages can be compared."""
    assert report.html(*make_case()) == report.html(*make_case())


def test_write(tmp_path):
    """The file is written; what can't be written or does not fit is refused."""
    case = make_case()
    path = report.write(tmp_path / "page.html", *case, title="My shop")
    assert path.read_text("utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(OutputError, match="can't be written"):
        report.write(tmp_path / "none" / "page.html", *case)
    with pytest.raises(InputError, match="a cause for each event"):
        report.html(*case[:4], ())
    with pytest.raises(InputError, match="a score for each row"):
        report.html(case[0].rows(slice(0, 10)), *case[1:])


@pytest.mark.data
def test_a_real_shop(data_dir):
    """A day of Online Boutique, 223 KPIs: a page of bounded size that names services and known faults."""
    from foreshock import read
    from foreshock.decide import decide
    from foreshock.explain import explain
    from foreshock.models import load_detector

    frame = read(str(data_dir / "nezha" / "onlineboutique_2022-08-22.parquet"))
    scores = load_detector("past_median").score(frame.without_labels())
    threshold = calibrate(scores.system, frame.step_s)
    events = decide(scores, threshold)
    causes = [explain(frame.without_labels(), scores, event, others=events) for event in events]
    page = report.html(frame, scores, threshold, events, causes)
    told = Page(page)
    assert len(page.encode()) < 2_000_000
    assert "24 known faults found" in told.text
    assert "adservice" in told.text


def test_pictures_start_with_the_origin_and_do_not_repeat():
    """The origin's own KPIs first; p95 and p99 wait until each service and kind has its picture."""
    frame, *_ = make_case()
    symptom, own = make_cause(frame, "cart").kpis
    several = tuple(replace(symptom, metric=f"latency_p{p}", kind="latency") for p in (90, 95, 99))
    cause = replace(make_cause(frame, "cart"), kpis=(*several, own))
    assert [f.metric for f in incidents._drawn(cause)] == [
        "cpu_pct",
        "latency_p90",
        "latency_p95",
        "latency_p99",
    ]
    other = replace(symptom, service="db", strength=0.2, kind="latency")
    drawn = incidents._drawn(replace(cause, kpis=(*several, own, other)))
    assert [f.service for f in drawn[:3]] == ["cart", "web", "db"]
