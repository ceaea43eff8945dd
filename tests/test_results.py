"""The tables in the documents come from the records, and from these records."""

from __future__ import annotations

import importlib.util
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_results_page_is_what_the_records_say():
    """`make docs` was run after the last benchmark."""
    spec = importlib.util.spec_from_file_location("tables", BENCHMARKS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert (BENCHMARKS / "RESULTS.md").read_text() == tables.whole()
