"""Take the pictures of the reports that the docs show: `python docs/make_screenshots.py`.

Runs the main job on the demo recording, and the evaluation's page on the records of benchmarks/results, opens
both in Chromium (playwright, from the `dev` group; the browser on the path or FORESHOCK_CHROMIUM) and writes
docs/img/report-{desk,whole,phone}.png and evaluation-{desk,phone}.png.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

IMAGES = Path(__file__).parent / "img"
RECORDS = Path(__file__).parents[1] / "benchmarks" / "results" / "evaluate.jsonl"
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "report.html"
        command = [sys.executable, "-m", "foreshock", "detect", "demo:", "--report", str(page), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        judged = Path(folder) / "evaluation.html"
        command = [sys.executable, "-m", "foreshock", "runs", "report", str(RECORDS), "--out", str(judged)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = os.environ.get("FORESHOCK_CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=found, args=ARGS)
        save("report-desk.png", shoot(browser, page, 1280, "light", "body", 1560))
        save("report-whole.png", shoot(browser, page, 1280, "light", "section[aria-labelledby=whole]"))
        save("report-phone.png", shoot(browser, page, 390, "dark", "body", 1560))
        save("evaluation-desk.png", shoot(browser, judged, 1280, "light", "body", 1300))
        save("evaluation-phone.png", shoot(browser, judged, 390, "dark", "body", 1560))
        browser.close()


def shoot(
    browser: Browser, page: Path, width: int, scheme: str, part: str, height: int | None = None
) -> Image.Image:
    """A part of the page in one theme, cut to `height` CSS pixels; a phone's pixels are doubled."""
    scale = 2 if width < 500 else 1
    tab = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=scale
    )  # type: ignore[arg-type]
    tab.goto(page.as_uri())
    picture = Image.open(io.BytesIO(tab.locator(part).first.screenshot()))
    tab.close()
    return (
        picture
        if height is None
        else picture.crop((0, 0, picture.width, min(height * scale, picture.height)))
    )


def save(name: str, picture: Image.Image) -> None:
    """As PNG, with fewer colours where the file would be too heavy for the docs."""
    IMAGES.mkdir(exist_ok=True)
    picture.convert("RGB").save(IMAGES / name, optimize=True)
    if (IMAGES / name).stat().st_size > 400_000:
        picture.convert("RGB").quantize(256).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
