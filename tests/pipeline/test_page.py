"""The page of `make report`, of a real run: it refers to nothing outside, and a browser without a network draws it all.

LEAVEN_PAGE names a page that is there already; LEAVEN_SCREENSHOT the PNG to keep (-k browser).
"""

import io
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline import clones

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
EMPTY = {"meta", "img", "br", "link", "input"}  # HTML's own elements without an end


@pytest.fixture(scope="module")
def page(request, tmp_path_factory):
    """The file: of the run in `base` and of this repository's studies."""
    if "LEAVEN_PAGE" in os.environ:
        return Path(os.environ["LEAVEN_PAGE"]).resolve()
    base, out = request.getfixturevalue("base"), tmp_path_factory.mktemp("page") / "report.html"
    clones.run(base.clone, "python", "-m", "pipeline", "report", "--out", str(out))
    return out


class Reader(HTMLParser):
    """Elements with their attributes, their text, and whether all that was opened is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.open, self.styles, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] == "style" else self.words).append(data)


def outside(page: Reader) -> list[str]:
    """Whatever a browser would fetch, of any kind: addresses in attributes, in styles, scripts."""
    found = []
    for tag, attributes in page.found:
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
            found.append(tag)
        for name, value in attributes.items():
            address = name.rpartition(":")[2] in ("src", "href", "srcset", "data", "action", "poster", "background")
            if address and not re.match(r"#|data:image/png;base64,", value or ""):
                found.append(f"{tag} {name}={value[:80]}")
            if name == "style" or name.startswith("on"):
                page.styles.append(value)
    found += re.findall(r"@import[^;]*|url\((?!#|['\"]#)[^)]*\)", " ".join(page.styles))
    return found


@pytest.mark.parametrize(
    "bad",
    [
        "<img src='https://a.b/c.png'>",
        "<img src='plots/a.png'>",
        "<style>@import 'x.css';</style>",
        "<p style='background: url(//a.b/c)'>x</p>",
        "<script>1</script>",
        "<svg><use xlink:href='http://a.b#c'/></svg>",
    ],
)
def test_the_search_for_what_lies_outside_finds_it(bad):
    assert outside(Reader(bad))


@pytest.mark.slow
def test_the_page_refers_to_nothing_outside(page):
    text = page.read_text(encoding="utf-8")
    found = Reader(text)
    assert outside(found) == []
    assert found.open == []
    assert not re.search(r"https?://|//[a-z]+\.", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert 'name="viewport"' in text


@pytest.mark.slow
def test_the_page_has_the_runs_numbers_and_figures(page, base):
    found = Reader(page.read_text(encoding="utf-8"))
    words = " ".join(found.words)
    for name in ("top1", "top1_labelled", "top1_10pct", "top1_1pct", "clsp", "knn", "pixels", "untrained"):
        value = re.search(rf'"{name}": ([\d.]+)', (base.clone / "metrics/linear_eval.json").read_text())[1]
        assert f"{float(value):.2f}" in words
    captions = "Generated images above|Training the generator|Pretraining: loss|t-SNE|nearest to them|probe predicts"
    for caption in captions.split("|"):
        assert caption in words
    pictures = [attributes for tag, attributes in found.found if tag == "img"]
    assert len(pictures) == 3
    assert all(attributes["alt"] for attributes in pictures)


@pytest.mark.slow
def test_a_fresh_clone_has_the_studies_part(tmp_path):
    """From the committed CSVs alone: no data/, no store."""
    clone = clones.of_working_tree(tmp_path / "clone")
    clones.run(clone, "python", "-m", "pipeline", "report")
    words = " ".join(Reader((clone / "report.html").read_text(encoding="utf-8")).words)
    assert "Not drawn here, data/real" in words
    for study in (clone / "studies").glob("*.csv"):
        assert f"leaven study table {study.stem}" in words
    assert clones.run(clone, "git", "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver (Debian's, installed by .ci/run)")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)], ids=["wide", "dark", "phone"])
def test_a_browser_without_a_network_draws_every_figure(page, width, dark):
    with browser() as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        blocked = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", blocked)
        screen = {"width": width, "height": 1500, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        driver.get(page.as_uri())
        figures = driver.execute_script(
            """return [...document.querySelectorAll('figure')].map(f => {
                const e = f.querySelector('svg, img'), box = e.getBoundingClientRect();
                const drawn = e.tagName == 'IMG' ? e.complete && e.naturalWidth > 0
                    : [...e.querySelectorAll('path, use')].some(p => p.getBoundingClientRect().width > 1);
                return [f.querySelector('figcaption').textContent, box.width, box.height, drawn] })"""
        )
        assert len(figures) >= 8
        for caption, across, down, drawn in figures:
            assert drawn, caption
            assert across > 200, caption
            assert down > 30, caption
        assert driver.execute_script("return document.scrollingElement.scrollWidth") <= width  # nothing sticks out
        fetched = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [name for name in fetched if not name.startswith("data:")] == []
        assert driver.get_log("browser") == []
        shown = np.asarray(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("L"))
        assert (shown.mean() < 90) if dark else (shown.mean() > 165)
        assert shown.std() > 15  # not a blank page
        if "LEAVEN_SCREENSHOT" in os.environ and (width, dark) == (1280, False):
            Path(os.environ["LEAVEN_SCREENSHOT"]).write_bytes(driver.get_screenshot_as_png())


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver (Debian's, installed by .ci/run)")
def test_dvcs_own_page_of_plots_is_drawn_without_a_network(base, tmp_path):
    """By .dvc/page.html, with Vega in it; DVC's own would fetch it."""
    clones.run(base.clone, "dvc", "plots", "show", "--out", str(tmp_path / "plots"))
    page = tmp_path / "plots/index.html"
    assert "cdn." not in page.read_text(encoding="utf-8")
    from selenium.webdriver.support.ui import WebDriverWait

    with browser() as driver:
        driver.get(page.as_uri())
        found = (
            "return [...document.querySelectorAll('canvas.marks, svg.marks')].filter(e => e.clientWidth > 100).length"
        )
        WebDriverWait(driver, 30).until(lambda driver: driver.execute_script(found) >= 6)
        pictures = driver.execute_script("return [...document.images].map(e => e.naturalWidth)")
        assert len(pictures) == 5  # generated.png, closest.png, scores.png, positives.png, pretrain.png
        assert min(pictures) > 0
        assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []
        if "LEAVEN_SCREENSHOT" in os.environ:
            Path(os.environ["LEAVEN_SCREENSHOT"]).with_suffix(".plots.png").write_bytes(driver.get_screenshot_as_png())


def browser():
    """Headless Chromium that resolves no name at all."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
