"""Take the pictures of the living service's page: `PYTHONPATH=tests python docs/make_live_screenshots.py`.

Feeds the demo recording into a Monitor, up to an incident that still runs, serves the page as the service
does, and writes docs/img/live-{desk,incident,phone}.png. Needs the `dev` group and Chromium.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import tempfile
import threading
import time

import uvicorn
from make_screenshots import ARGS, save
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import live_fixture
from foreshock.service.api import make_app

ROWS = 816  # of the demo: a memory leak runs


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        live = live_fixture.build(folder, live_fixture.shop(ROWS, time.time()))
        incidents = live.store.incidents()
        for incident in incidents[1:3]:
            live.store.add_verdict(incident["id"], "confirmed", author="on call")
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(make_app(live), log_level="error"))
        threading.Thread(target=server.run, args=([listening],), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/#/"
        named = next((i for i in incidents if i["cause"]["is_known"]), incidents[0])
        found = os.environ.get("FORESHOCK_CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=found, args=ARGS)
        save("live-desk.png", shoot(browser, url, 1280, "light", 1120))
        save("live-incident.png", shoot(browser, f"{url}incident/{named['id']}", 1280, "dark", 1120))
        save("live-phone.png", shoot(browser, url, 375, "dark", 900))
        browser.close()
        server.should_exit = True


def shoot(browser: Browser, url: str, width: int, scheme: str, height: int) -> Image.Image:
    """The upper part of a view once it has settled; a phone's pixels are doubled."""
    scale = 2 if width < 500 else 1
    tab = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=scale
    )  # type: ignore[arg-type]
    tab.goto(url)
    tab.wait_for_selector("#pulse.ok")
    tab.wait_for_selector(".chart svg")
    tab.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(tab.screenshot()))
    tab.close()
    return picture


if __name__ == "__main__":
    main()
