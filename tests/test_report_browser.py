"""The report in a real browser: opened from a file, at the width of a desk and of a phone.

Chromium is looked for under its usual names, or is the program that MACER_BROWSER names; without one, these tests skip.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from math import floor
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from report_runs import QUIET, make_runs

from macer.report import write_report
from macer.report.parts import page_radii
from macer.results import average_certified_radius, certified_accuracy, certified_accuracy_interval, read_records

WIDTHS = (1280, 390)
EVIL = "<b onclick=alert(1)>cohen&amp;"
TIMEOUT = 20_000  # milliseconds; shared machines are slow at times


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    named = os.environ.get("MACER_BROWSER")
    program = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium; set MACER_BROWSER to its program")
    with sync_playwright() as playwright:
        # Without its sandbox, which root may not have; it opens nothing but our own page.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A page about two runs, one of a hostile name and with hostile training curves, and what it is about."""
    folder = tmp_path_factory.mktemp("report")
    runs = make_runs(folder, ("macer", EVIL))
    metrics = runs[1] / "metrics.tsv"
    metrics.write_text(metrics.read_text().replace("classification", "</script><script>hacked=1</script>"))
    file = folder / "report.html"
    assert write_report(runs, file, votes=50, device="cpu", console=QUIET) == []
    return SimpleNamespace(file=file, records=[read_records(run / "certificates" / "hard.tsv")[0] for run in runs])


@pytest.fixture(scope="module", params=WIDTHS)
def opened(request, browser, report) -> Iterator[SimpleNamespace]:
    """The page at one width, with all that it asked for and said. Tests leave it as a reader might."""
    context = browser.new_context(viewport={"width": request.param, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda each: asked.append(each.url))
    page.on("console", lambda each: said.append(each.text))
    page.on("pageerror", lambda each: said.append(str(each)))
    page.on("dialog", lambda each: (said.append(f"dialog {each.message}"), each.dismiss()))
    page.goto(report.file.as_uri())
    page.wait_for_selector("[data-figure=radius-accuracy] .legendtext")
    yield SimpleNamespace(page=page, asked=asked, said=said, width=request.param)
    context.close()


def wait_until(page: Page, script: str) -> None:
    """Until a script gives something true. (Playwright's own way needs eval, which the page's policy forbids.)"""
    end = time.monotonic() + TIMEOUT / 1000
    while not page.evaluate(script):
        assert time.monotonic() < end, script
        time.sleep(0.05)


@pytest.fixture
def page(opened) -> Page:
    return opened.page


def test_it_opens_from_a_file_and_fits_the_width(opened, report):
    overflow = opened.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    assert opened.page.locator(".plot .main-svg").count() >= 3
    assert opened.page.title() == f"macer and {EVIL}"


def test_hover_shows_radius_accuracy_and_images(page, report, opened):
    plot = page.locator("[data-figure=radius-accuracy]")
    plot.scroll_into_view_if_needed()
    x, y = page.evaluate(
        """plot => {
            const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
            const line = plot.data.find(trace => trace.name === "macer"), place = Math.floor(line.x.length / 4);
            return [box.x + xaxis._offset + xaxis.d2p(line.x[place]), box.y + yaxis._offset + yaxis.d2p(line.y[place])];
        }""",
        plot.element_handle(),
    )
    page.mouse.move(x, y)
    wait_until(page, "document.querySelector('[data-figure=radius-accuracy] .hoverlayer').textContent")
    shown = plot.locator(".hoverlayer").text_content() or ""
    at = float(re.findall(r"radius (\d\.\d{3})", shown)[0])
    radii = page.evaluate("plot => plot.data.find(trace => trace.name === 'macer').x", plot.element_handle())
    (radius,) = (radius for radius in radii if f"{radius:.3f}" == f"{at:.3f}")
    told = [
        f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}], {round(50 * estimate.value)} of 50 images"
        for estimate in (certified_accuracy_interval(records, radius) for records in report.records)
    ]
    assert told[0] in shown
    if opened.width > 500:  # all curves at once
        assert told[1] in shown
        assert EVIL in shown
    page.mouse.move(0, 0)


def visible(name):
    """A script that tells whether a curve is switched on."""
    return f"document.querySelector('[data-figure=radius-accuracy]').data.find(t => t.name === '{name}').visible"


def test_the_legend_switches_a_run_with_its_band(page):
    plot = page.locator("[data-figure=radius-accuracy]")
    fills = plot.locator(".js-fill")
    before = fills.count()
    entry = plot.locator(".traces", has_text=re.compile("^macer$")).locator(".legendtoggle")
    entry.click()
    wait_until(page, f"{visible('macer')} === 'legendonly'")
    assert fills.count() == before - 1
    time.sleep(0.5)  # else the next click would make a double click
    entry.click()
    wait_until(page, f"{visible('macer')} === true")
    assert fills.count() == before
    assert page.evaluate(visible("macer soft")) == "legendonly"


def test_a_click_on_a_title_sorts_the_table(page, report):
    table = page.locator("#result table")
    column = table.locator("thead th").all_text_contents().index("ACR [95%]")

    def values():
        cells = table.locator(f"tbody tr td:nth-child({column + 1})").all_text_contents()
        return [float(cell.split()[0]) for cell in cells]

    given = values()
    assert len(given) == 4
    title = table.locator("thead th").nth(column)
    title.locator("button").click()
    assert title.get_attribute("aria-sort") == "descending"
    assert values() == sorted(given, reverse=True)
    title.locator("button").click()
    assert title.get_attribute("aria-sort") == "ascending"
    assert values() == sorted(given)
    assert f"{average_certified_radius(report.records[0]).value:.3f}" in table.inner_text()
    names = table.locator("thead th").nth(0)
    names.locator("button").click()
    shown = [name.strip() for name in table.locator("tbody th").all_text_contents()]
    assert shown == sorted(shown, key=str.lower)


def test_numbers_in_the_table_are_those_of_the_records(page, report):
    row = page.locator("#result tbody tr", has=page.locator("th", has_text=re.compile(r"^\s*macer\s*$")))
    text = row.inner_text()
    for radius in page_radii(report.records):
        assert f"{certified_accuracy(report.records[0], radius):.3f}" in text


def choose(page: Page, **chosen: Any) -> None:
    for name, value in chosen.items():
        field = page.locator(f"#gallery [name={name}]")
        if name == "index":
            field.fill(value)
        else:
            field.select_option(value)


def test_the_gallery_finds_images_by_verdict_class_and_index(page, report):
    records = report.records[0]
    cards = page.locator("#gallery .image")
    assert cards.count() == 12
    page.locator("#gallery-more").click()
    assert cards.count() == 24
    page.locator("#gallery-more").click()
    page.locator("#gallery-more").click()
    page.locator("#gallery-more").click()
    assert cards.count() == 50
    assert page.locator("#gallery-more").is_hidden()
    counts = {
        "right": int(records.correct.sum()),
        "abstained": int((records.predict == -1).sum()),
    }
    counts["wrong"] = len(records) - sum(counts.values())
    for verdict, count in counts.items():
        choose(page, verdict=verdict)
        assert page.locator("#gallery-count").inner_text() == f"{count} of 50 certified images"
        assert cards.count() == min(count, 12)
        assert page.locator(f"#gallery .verdict.{verdict}").count() == min(count, 12)
    choose(page, verdict="all", label="3")
    assert page.locator("#gallery-count").inner_text() == f"{(records.label == 3).sum()} of 50 certified images"
    assert all(", class 3" in text for text in cards.locator("h3").all_text_contents())
    choose(page, label="", index="120")
    assert cards.count() == 1
    assert (cards.locator("h3").text_content() or "").startswith(f"image 120, class {records.label[12]}")
    choose(page, index="121")
    assert cards.count() == 0
    choose(page, index="")


def test_the_gallery_sorts_by_radius(page, report):
    records = report.records[0]
    radius = records.certified_radius[records.correct]
    cards = page.locator("#gallery .image h3")
    for order, expected in (("rising", sorted(radius)), ("falling", sorted(radius, reverse=True))):
        choose(page, verdict="right", order=order)
        shown = [float(text.rsplit(" ", 1)[1]) for text in cards.all_text_contents()]
        assert shown == [floor(1000 * radius) / 1000 for radius in expected[:12]]
    choose(page, verdict="all", order="rising")


def test_an_image_has_pictures_votes_and_its_ball_in_words(page, report):
    records = report.records[0]
    place = int(records.certified_radius.argmax())
    choose(page, index=str(records.idx[place]))
    card = page.locator("#gallery .image")
    wait_until(page, "[...document.querySelectorAll('#gallery canvas')].every(each => each.width === 8)")
    assert card.locator("img").evaluate("image => image.naturalWidth") == 8
    assert card.locator("canvas").count() == 3
    votes = card.locator(".votes dd").all_text_contents()
    assert sum(int(text.split(" of ")[0]) for text in votes) == 50
    radius = records.radius[place]
    words = card.locator(".ball").inner_text()
    below = f"{floor(1000 * radius) / 1000:.3f}"
    assert (
        f"Every 8-bit image at an L2 distance of less than {below} is classified as “{records.predict[place]}”" in words
    )
    level = floor(10 * 255 * (floor(1e4 * radius) / 1e4) / 8) / 10
    assert f"all 64 values changed by {level:.1f} of 255 grey levels" in words
    choose(page, index="")


def test_noisy_copies_have_the_noise_of_sigma(page):
    """A grey square of half brightness, 200 x 200: its noise has deviation 255 sigma, nothing is cut off at sigma 0.1.

    The mean of 40,000 draws is within 0.64 of 0 and their deviation within 0.45 of 25.5 but once in 1e6 pages, each: 5
    standard errors. The seed is fixed.
    """
    mean, deviation, grey = page.evaluate(
        """async () => {
            const square = document.createElement("canvas");
            square.width = square.height = 200;
            const context = square.getContext("2d", { willReadFrequently: true });
            context.fillStyle = "rgb(128, 128, 128)";
            context.fillRect(0, 0, 200, 200);
            const picture = new Image();
            picture.src = square.toDataURL();
            await picture.decode();
            drawNoisy(square, picture, 1, 0.1, 7);
            const pixels = context.getImageData(0, 0, 200, 200).data;
            const values = Array.from({ length: 40000 }, (_, place) => pixels[4 * place] - 128);
            const mean = values.reduce((sum, value) => sum + value) / 40000;
            const square_mean = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 40000;
            const grey = values.every((_, place) => pixels[4 * place] === pixels[4 * place + 2]);
            return [mean, Math.sqrt(square_mean), grey];
        }"""
    )
    assert abs(mean) < 0.64
    assert abs(deviation - 25.5) < 0.45
    assert grey


def test_classes_follow_the_chosen_run_and_radius(page, report):
    form = page.locator("#classes form")
    for run, records in enumerate(report.records):
        form.locator("[name=run]").select_option(str(run))
        for number in (0, 1):
            radius = page_radii(report.records)[number]
            form.locator("[name=radius]").select_option(str(number))
            views = page.locator(".class-view:visible")
            assert views.count() == 1
            zero = views.locator("table").first.locator("tbody tr").first.locator("td")
            of_class = records.label == 0
            share = (records.correct & (records.radius >= radius))[of_class].mean()
            assert zero.nth(0).inner_text() == str(of_class.sum())
            assert zero.nth(1).inner_text().startswith(f"{share:.3f}")
            cells = views.locator(".matrix tbody td").all_text_contents()
            assert sum(int(cell or 0) for cell in cells) == 50


def test_light_dark_and_paper(opened):
    page = opened.page
    drawn = "getComputedStyle(document.querySelector('[data-figure=radius-accuracy] .scatter .js-line')).stroke"
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(f"[{background}, {drawn}]")
    page.emulate_media(color_scheme="dark")
    wait_until(page, f"{drawn} !== '{light[1]}'")
    assert page.evaluate(background) != light[0]
    page.emulate_media(media="print", color_scheme="dark")
    wait_until(page, f"{drawn} === '{light[1]}'")
    assert page.evaluate(background) == light[0] == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()
    page.emulate_media(media="screen", color_scheme="light")


def test_paper_shows_all_settings(page):
    """They are open before the pages are counted, and closed again after."""
    page.evaluate(
        "addEventListener('beforeprint', () => { opened = document.querySelectorAll('details[open]').length })"
    )
    page.pdf()
    assert page.evaluate("opened") == page.locator("details").count() == 2
    assert page.locator("details[open]").count() == 0


def test_a_matrix_of_classes_with_names_is_no_larger_than_the_page(page, opened):
    heights, wide = page.evaluate(
        """() => {
            const matrix = document.querySelector(".class-view:not([hidden]) .matrix"), before = matrix.cloneNode(true);
            matrix.classList.add("named");
            for (const name of matrix.querySelectorAll("tbody th, thead span")) name.textContent = "automobile";
            const heights = [...matrix.rows].map((row) => row.offsetHeight);
            const wide = matrix.offsetWidth > matrix.parentElement.clientWidth;
            matrix.replaceWith(before);
            return [heights, wide];
        }"""
    )
    assert heights[0] < 150
    assert max(heights[1:]) < 40
    assert not wide or opened.width < 500  # a phone scrolls it


def test_nothing_was_fetched_said_or_run(opened, report):
    """After all of the above: the only request is for the page itself (and its own pictures, which stand in it)."""
    assert [url for url in opened.asked if not url.startswith("data:")] == [report.file.as_uri()]
    assert opened.said == []
    assert opened.page.evaluate("typeof hacked") == "undefined"
    assert opened.page.locator("[onclick]").count() == 0
    assert EVIL in opened.page.locator("#result").inner_text()
    assert "</script><script>hacked=1</script>" in opened.page.locator("#training").inner_text()
