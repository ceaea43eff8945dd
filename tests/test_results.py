"""The tables in the documents come from the records, and from these records."""

from __future__ import annotations

import importlib.util
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
