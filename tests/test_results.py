"""The tables in the documents come from the records, and from these records."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", BENCHMARKS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_results_page_is_what_the_records_say(tables):
    """`make docs` was run after the last benchmark."""
    assert (BENCHMARKS / "RESULTS.md").read_text() == tables.whole()


def test_the_leakage_page_is_what_the_records_say(tables):
    """The audit's table was written after the audit's last run."""
    assert tables.read("audit.jsonl"), "run `foreshock evaluate --audit`"
    assert tables.LEAKAGE.read_text() == tables.leakage()


def test_the_plan_page_is_what_the_records_say(tables):
    """The table of predicted memory was written after the last measurement."""
    assert tables.PLAN.read_text() == tables.plan()


def test_the_readme_says_what_the_records_say():
    """Its paragraph of figures was written after the last measurement."""
    import honest

    assert honest.page() == honest.PAGE.read_text("utf-8")


def test_the_methodology_is_what_the_records_say():
    """Every block of the page was written after the last measurement."""
    import methodology

    assert methodology.PAGE.read_text("utf-8") == methodology.page()


def test_the_page_on_few_labels_is_what_the_records_say():
    """Its tables were written after the last measurement, and so was its picture."""
    import few_shots

    assert few_shots.PAGE.read_text("utf-8") == few_shots.page()
    assert few_shots.told_in_picture().encode() in few_shots.PICTURE.read_bytes()


def test_no_figure_of_a_measurement_is_typed_by_hand():
    """Outside of its blocks the methodology holds no decimal fraction and no share."""
    import methodology

    words = re.sub(r"<!-- table: .*?<!-- end -->", "", methodology.PAGE.read_text("utf-8"), flags=re.S)
    assert not re.findall(r"\d\.\d|\d ?%", words)


def test_the_troubles_are_what_the_record_says():
    """The table of docs/operations.md was written after the last measurement."""
    import serve_trouble

    text = serve_trouble.PAGE.read_text("utf-8")
    assert serve_trouble.RECORD.exists()
    assert serve_trouble.page(text) == text
