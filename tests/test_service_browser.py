"""The living service's page in a real browser: desk, phone, themes, keyboard, verdicts, a lost service."""

from __future__ import annotations

import socket
import threading
import time

import pytest

import live_fixture as fixture

uvicorn = pytest.importorskip("uvicorn", reason="needs foreshock[serve]")

from foreshock.service.api import make_app  # noqa: E402

pytestmark = pytest.mark.browser

VIEWS = ("", "incidents", "incident/{id}", "backtest", "adapters")


class Server:
    """The app on a port of its own, in a thread."""

    def __init__(self, live, port=0):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(make_app(live), log_level="error", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)

    def stop(self):
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)
        self.socket.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    return fixture.build(tmp_path_factory.mktemp("page"), fixture.shop(1102, time.time()))


@pytest.fixture(scope="module")
def server(live):
    made = Server(live)
    yield made
    made.stop()


@pytest.fixture
def said():
    return []


@pytest.fixture
def tab(browser, said):
    """tab(url, **context): a new tab whose messages and requests are kept in `said`."""
    contexts = []

    def open_tab(url, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        return page

    yield open_tab
    for context in contexts:
        context.close()


def settled(page):
    page.wait_for_selector(".box", timeout=10_000)
    page.wait_for_selector("#pulse.ok", timeout=10_000)
    page.wait_for_timeout(200)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_fits_and_complains_of_nothing(tab, server, live, said, view, width, scheme):
    """No sideways scrolling, no console message, one h1, nothing asked of other hosts."""
    id = live.store.incidents()[0]["id"]
    page = tab("about:blank", viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/#/{view.format(id=id)}")
    settled(page)
    inner, outer = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert inner <= outer
    assert said == []
    assert page.locator("h1").count() == 1
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []


def test_letters_can_be_read(tab, server):
    """Ink, muted words, links and alarms have a contrast of at least 4.5 on both grounds, in both themes."""
    for scheme in ("light", "dark"):
        page = tab(server.url, color_scheme=scheme)
        settled(page)
        read = "n => n.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
        colors = page.evaluate(read, ["ink", "muted", "accent", "alarm", "calm"])
        grounds = page.evaluate(read, ["page", "ground", "raised"])
        for color in colors:
            assert min(contrast(color, ground) for ground in grounds) >= 4.5, (scheme, color)
        stops = page.evaluate(read, [f"heat-{i}" for i in range(4)])
        lightness = [luminance(whole(c)) for c in stops]
        assert lightness in (sorted(lightness), sorted(lightness, reverse=True)), "reads without hues"


def whole(color):
    return color if len(color) == 7 else "#" + "".join(2 * c for c in color[1:])


def contrast(one, other):
    """WCAG 2 contrast of two colours."""
    a, b = sorted((luminance(whole(one)), luminance(whole(other))), reverse=True)
    return (a + 0.05) / (b + 0.05)


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_keyboard_reaches_everything(tab, server, live):
    """Skip link first, then the views; arrows walk the heat map, Enter opens the incident of the cell."""
    page = tab(server.url)
    settled(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.locator(".heat").focus()
    told = page.locator(".readout").inner_text()
    page.keyboard.press("ArrowDown")
    assert page.locator(".readout").inner_text() != told
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Home")
    page.keyboard.press("End")
    for _ in range(180):  # back in time, to the newest column with an incident
        if "incident" in page.locator(".readout").inner_text():
            break
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/incident/*")
    settled(page)
    assert page.evaluate("document.activeElement.tagName") == "H1"
    assert live.store.incident(page.url.rpartition("/")[2]) is not None


def test_a_verdict_from_the_page_is_kept(tab, server, live):
    """The token is asked for once, a wrong one again; the verdict shows and lies in the store."""
    id = live.store.incidents()[1]["id"]
    page = tab(f"{server.url}/#/incident/{id}")
    settled(page)
    page.get_by_label("Fault type").fill("slow_query")
    page.get_by_label("Service", exact=True).fill("orders")
    page.get_by_label("Note").fill("<b>index</b> dropped")
    page.get_by_role("button", name="It was real").click()
    page.get_by_role("textbox", name="Token").fill("wrong")
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("That token was not right").wait_for()
    page.get_by_role("textbox", name="Token").fill(fixture.TOKEN)
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("Kept: real").wait_for()
    assert page.locator(".said li").first.inner_text().startswith("Real · slow query · orders")
    assert page.locator(".said b").count() == 1  # what people write stays text
    page.get_by_role("button", name="False alarm").click()
    page.get_by_text("Kept: false alarm").wait_for()
    said = live.store.verdicts(id)
    assert [(v["verdict"], v["fault_type"]) for v in said] == [
        ("confirmed", "slow_query"),
        ("false_alarm", ""),
    ]
    assert id in live.store.evidence_ids()
    held = page.evaluate("[Object.keys(localStorage), Object.keys(sessionStorage), document.cookie]")
    assert held[0] == []
    assert "foreshock-token" in held[1]
    assert held[2] == ""


def test_the_slider_counts_incidents_anew(tab, server):
    """A larger budget never tells fewer; the words beside the slider follow."""
    page = tab(f"{server.url}/#/backtest")
    settled(page)
    page.locator(".facts dd").first.wait_for()

    def count(at):
        page.locator("#budget").fill(str(at))
        with page.expect_response("**/api/v1/backtest?*"):
            pass
        page.wait_for_selector(".stack:not([aria-busy])", state="attached")
        return int(page.locator(".facts dd").first.inner_text().split()[0])

    few, many = count(0), count(12)
    assert few <= many
    assert page.locator("output").inner_text() == "48 a day"


def test_a_lost_service_is_told_and_comes_back(tab, live, said):
    """The page says so within a poll, keeps what it showed, and goes on by itself."""
    server = Server(live)
    page = tab(server.url)
    settled(page)
    server.stop()
    page.evaluate("dispatchEvent(new Event('online'))")
    page.wait_for_selector("#lost:not([hidden])", timeout=10_000)
    assert "Connection lost" in page.locator("#lost").inner_text()
    assert page.locator(".heat").count() == 1
    again = Server(live, server.port)
    try:
        page.wait_for_selector("#lost[hidden]", state="attached", timeout=20_000)
        settled(page)
    finally:
        again.stop()


def test_a_message_of_the_loop_brings_news(tab, live, server):
    """A new incident shows without a reload, by the event stream alone."""
    page = tab(server.url)
    settled(page)
    page.wait_for_timeout(1600)  # looks closer together than this are joined
    template = live.store.incidents()[0]
    made = {
        **template,
        "id": "2030-01-01T00-00-00Z",
        "event": {**template["event"], "start_time": "2030-01-01T00:00:00Z"},
    }
    made["cause"] = {**template["cause"], "headline": "the new one"}
    live.store.save_incident(made)
    try:
        server.server.servers[0].get_loop().call_soon_threadsafe(live.publish, {"kind": "cycle"})
        page.get_by_text("The new one").first.wait_for(timeout=5000)
    finally:
        with live.store._write() as db:
            db.execute("DELETE FROM incidents WHERE id = ?", (made["id"],))


def test_an_empty_service_and_an_unknown_incident(tab, tmp_path, said):
    """Nothing yet is said in words, not shown as calm; a wrong address is told."""
    server = Server(fixture.empty(tmp_path))
    try:
        page = tab(server.url)
        page.get_by_text("No rows yet").wait_for()
        assert page.locator("h1").inner_text() == "Waiting for metrics"
        page.goto(f"{server.url}/#/incident/none")
        page.get_by_text("No such incident").wait_for()
    finally:
        server.stop()


def test_the_theme_can_be_chosen_and_is_kept(tab, server):
    """The button overrides what the system prefers, after a reload too."""
    page = tab(server.url, color_scheme="light")
    settled(page)
    page.get_by_role("button", name="Change between dark and light").click()
    assert page.evaluate("document.documentElement.className") == "dark"
    page.reload()
    settled(page)
    assert page.evaluate("document.documentElement.className") == "dark"


def test_times_are_the_readers(tab, server, live):
    """Shown in the browser's zone, with UTC on hover; no UTC clock is left in a headline."""
    page = tab(f"{server.url}/#/incidents", timezone_id="Asia/Kolkata")
    settled(page)
    first = page.locator("a.row time").first
    start = live.store.incidents()[0]["event"]["start_time"]
    assert first.get_attribute("title") == f"{start[:10]} {start[11:19]} UTC"
    hour, minute = int(start[11:13]), int(start[14:16])
    local = (hour * 60 + minute + 330) % 1440
    assert first.inner_text().endswith(f"{local // 60:02}:{local % 60:02}")
    assert "since" not in page.locator(".say").first.inner_text()
