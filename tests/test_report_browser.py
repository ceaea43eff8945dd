"""The page in a real browser: desk and phone, light and dark, without a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from foreshock import report
from foreshock.report import evaluation

pytestmark = pytest.mark.browser

_spec = importlib.util.spec_from_file_location("report_cases", Path(__file__).with_name("test_report.py"))
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
_spec = importlib.util.spec_from_file_location(
    "evaluation_cases", Path(__file__).with_name("test_report_evaluation.py")
)
measured = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(measured)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    long_name = "a-service-with-a-very-long-name-that-nobody-would-like-to-type-twice"
    report.write(folder / "plain.html", *cases.make_case(known=True))
    report.write(folder / "long.html", *cases.make_case(service=long_name), title=long_name * 2)
    report.write(folder / "empty.html", *cases.make_case()[:3], (), ())
    found = measured.records()
    found += [measured.made("a_detector_with_a_long_name_that_wraps", "a", 0.5, data="a long name")]
    page = evaluation.html(found, measured.sketches_for(found))
    (folder / "evaluation.html").write_text(page, "utf-8")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("name", ["plain", "long", "empty"])
def test_fits_loads_nothing_and_complains_of_nothing(browser, pages, name, width, scheme):
    """No sideways scrolling, no console message, no request but the file itself."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((pages / f"{name}.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    inner, outer = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert inner <= outer
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.locator("h1").count() == 1
    assert page.locator("h2").count() >= 4
    shown = page.locator("svg.plot:visible").count()
    assert shown == (2 if name == "empty" else 4)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_evaluation_page_fits(browser, pages, width, scheme):
    """No sideways scrolling but of the wide tables, nothing said or asked for, pictures of some size."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((pages / "evaluation.html").as_uri())
    inner, outer = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert inner <= outer
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.locator("h1").count() == 1
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg.draw')].map(s => s.getBoundingClientRect())"
        ".map(r => [r.width, r.height])"
    )
    assert len(sizes) >= 9
    assert min(w for w, _ in sizes) >= 130  # curves stand two in a row on a phone
    assert min(h for _, h in sizes) >= 80
    told = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.children.length == 0 && e.textContent.trim())"
        ".filter(e => e.getBoundingClientRect().width > 0).map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(told) >= 12
    context.close()


def test_keyboard_and_anchors(browser, pages):
    """Tab reaches the skip link first, Enter folds a card, a number in the timeline opens it."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto((pages / "plain.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert not page.locator("details.incident").first.evaluate("d => d.open")
    page.locator("div.wide svg.plot a").first.click()
    page.wait_for_function("document.querySelector('details.incident').open", timeout=5000)
    page.close()


def test_letters_can_be_read(browser, pages):
    """Ink against its ground has a contrast of at least 4.5 in both themes; letters on a phone 10 px."""
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 800})
        page.goto((pages / "plain.html").as_uri())
        read = (
            "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n))"
        )
        colors = page.evaluate(read, ["ink", "muted", "alarm", "known", "value", "limit"])
        grounds = page.evaluate(read, ["page", "ground"])
        for color in colors:
            assert min(contrast(color, ground) for ground in grounds) >= 4.5, (scheme, color)
        sizes = page.evaluate(
            "[...document.querySelectorAll('svg.plot text')].filter(t => t.getBoundingClientRect().width > 0)"
            ".map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)"
        )
        assert sizes
        assert min(sizes) >= 10
        page.close()


def contrast(one, other):
    """WCAG 2 contrast of two #rrggbb colours."""
    a, b = sorted((luminance(one), luminance(other)), reverse=True)
    return (a + 0.05) / (b + 0.05)


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
