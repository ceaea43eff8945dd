"""What several tests share: where the recordings lie, and small frames made on the spot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from foreshock.frame import Frame, Kpi

# A slow moment of the machine is no failure; how long a thing may take is measured in benchmarks.
settings.register_profile("foreshock", deadline=None)
settings.load_profile("foreshock")


CHROMIUM = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def _folder(variable: str, what: str) -> Path:
    path = os.environ.get(variable)
    if not path or not Path(path).is_dir():
        words = f"{what} are not here; set {variable} to their folder"
        if os.environ.get("FORESHOCK_REQUIRE_DATA") == "1":
            pytest.fail(words)
        pytest.skip(words)
    return Path(path)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The development recordings."""
    return _folder("FORESHOCK_TEST_DATA", "the development recordings")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Inputs and outputs of the original MOMENT."""
    return _folder("FORESHOCK_GOLDEN", "the golden vectors of the original MOMENT")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of the system's. No wider scope: playwright's loop would run under other tests."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = (
        os.environ.get("FORESHOCK_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if not found:
        pytest.skip("no Chromium here; install one or set FORESHOCK_CHROMIUM")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(CHROMIUM))
        yield browser
        browser.close()


@pytest.fixture
def make_frame():
    """make_frame(rows, kpis=3, services=2, step_s=60, seed=0): quiet noise around a level."""

    def make(rows: int, kpis: int = 3, services: int = 2, step_s: float = 60.0, seed: int = 0) -> Frame:
        rng = np.random.default_rng(seed)
        values = rng.normal(10, 1, (rows, kpis)) + np.arange(kpis) * 5
        meta = tuple(Kpi(f"svc{i % services}__kpi{i}", f"svc{i % services}", f"kpi{i}") for i in range(kpis))
        time_ns = 1_700_000_000_000_000_000 + (np.arange(rows) * step_s * 1e9).astype(np.int64)
        return Frame(time_ns, values, meta, step_s)

    return make
