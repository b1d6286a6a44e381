"""The report in a real browser: it needs no network, fits a phone, and its maps and trees can be stepped through."""

import json
import time

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

MOST_BYTES = 3_000_000


def data_of(report):
    return json.loads(report.read_text().split('id="report-data">')[1].split("</script>")[0])


def open_report(browser, path, scheme="light"):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(path.as_uri())
    browser.execute_script("try { localStorage.clear() } catch {}")
    browser.get(path.as_uri())
    drawn = "return document.documentElement.dataset.charts === 'drawn'"
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(drawn))
    return browser


def all_of(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def one(browser, selector):
    [found] = all_of(browser, selector)
    return found


def press(browser, selector, text=None):
    [button] = [b for b in all_of(browser, selector) if text is None or b.text.strip().startswith(text)]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()


@pytest.fixture(params=["fourrooms", "comparison"])
def report(request):
    folder = request.getfixturevalue(request.param)
    return folder / ("evaluation/report.html" if request.param == "fourrooms" else "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_disk_without_a_network_and_draws_everything(browser, report, scheme):
    assert report.stat().st_size < MOST_BYTES
    open_report(browser, report, scheme)
    loaded = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
    assert browser.execute_script(loaded) == []
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    charts = all_of(browser, "[data-chart]")
    assert len(charts) == len(data_of(report)["charts"]) >= 10
    for chart in charts:
        assert chart.get_attribute("data-drawn") == "yes", chart.text
        marks = chart.find_elements(By.CSS_SELECTOR, "svg .mark-line path, svg .mark-rect path, svg .mark-rule line")
        assert marks and chart.find_elements(By.CSS_SELECTOR, "svg .role-title-text text"), chart.get_attribute(
            "aria-label"
        )
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    assert all(section.find_elements(By.CSS_SELECTOR, "*") for section in all_of(browser, "section"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(phone, report, scheme):
    open_report(phone, report, scheme)
    assert phone.execute_script("return document.documentElement.scrollWidth") <= 390
    sizes = phone.execute_script(
        "return [...document.querySelectorAll('[data-chart] svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert sizes and min(sizes) >= 9  # letters of a chart are not shrunk with it
    for button in all_of(phone, "main button, main select, #theme"):
        if button.is_displayed():
            assert button.size["height"] >= 28 and button.size["width"] >= 28, button.text


def test_text_can_be_read_on_its_background(browser, report):
    contrast = """
      const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => { v /= 255;
        return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
      const paper = light(getComputedStyle(document.body).backgroundColor);
      const texts = 'h1, h2, p, th, td, td .ci, section > details > summary, nav a, svg text';
      return [...document.querySelectorAll(texts)].map(e => {
        const style = getComputedStyle(e), own = light(e.ownerSVGElement ? style.fill : style.color);
        return [(Math.max(own, paper) + .05) / (Math.min(own, paper) + .05), e.textContent.slice(0, 40)] })"""
    for scheme in ("light", "dark"):
        open_report(browser, report, scheme)
        faint = [text for ratio, text in browser.execute_script(contrast) if ratio < 4.5 and not text.isdigit()]
        assert faint == [], scheme


def test_the_theme_can_be_changed_and_is_remembered(browser, report):
    open_report(browser, report, "light")
    colour = "return getComputedStyle(document.querySelector('[data-chart] .role-title-text text')).fill"
    before = browser.execute_script(colour)
    press(browser, "#theme")
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(colour) != before)
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
    browser.refresh()
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"


def drawn_at(line, turn):
    """Paths and stars that a tree of trees.jsonl has at a turn: its seed trajectory, and the vines that have begun."""
    [seed] = line["seeds"]
    begun = [(s["turn"], vine) for s in seed["states"] for vine in s["vines"] if s["turn"] <= turn]
    ended = [vine["success"] for at, vine in begun if turn >= at + len(vine["actions"])]
    return 1 + len(begun), sum(ended) + (seed["success"] and turn >= len(seed["actions"]))


def test_stepping_through_the_vines(browser, fourrooms):
    """Every press shows what trees.jsonl says of that turn."""
    lines = [json.loads(line) for line in (fourrooms / "run/trees.jsonl").read_text().splitlines()]
    open_report(browser, fourrooms / "evaluation/report.html")
    widget = "[data-widget='vines']"

    def assert_shows(line, turn, last):
        assert one(browser, f"{widget} .told").text.startswith(f"turn {turn} of {last}")
        paths, stars = (len(all_of(browser, f"{widget} svg.map {kind}")) for kind in (".path", "polygon"))
        assert (paths, stars) == drawn_at(line, turn), turn

    updates = Select(all_of(browser, f"{widget} select")[1])
    assert len(updates.options) == len(lines) == 3
    for index, line in enumerate(lines):
        updates.select_by_index(index)
        assert f"start state {line['start_state']}" in updates.first_selected_option.text
        states = line["seeds"][0]["states"]
        vines = [vine for state in states for vine in state["vines"]]
        last = max(
            len(line["seeds"][0]["actions"]), *(s["turn"] + len(v["actions"]) for s in states for v in s["vines"])
        )
        assert_shows(line, last, last)
        slider = one(browser, f"{widget} input[type=range]")
        browser.execute_script("arguments[0].value = 0; arguments[0].dispatchEvent(new Event('input'))", slider)
        assert_shows(line, 0, last)
        for turn in range(1, last + 1):
            press(browser, f"{widget} .step-on")
            assert_shows(line, turn, last)
        press(browser, f"{widget} .step-back")
        assert_shows(line, last - 1, last)
        one(browser, widget).send_keys(Keys.ARROW_RIGHT)
        assert_shows(line, last, last)
        cells = [row.find_elements(By.CSS_SELECTOR, "td") for row in all_of(browser, f"{widget} tbody tr")]
        assert sum(int(row[1].text) for row in cells) == len(vines) == 8
        assert sum(int(row[2].text) for row in cells) == sum(vine["success"] for vine in vines)
        press(browser, f"{widget} .groups button", "state 2")
        assert len(all_of(browser, f"{widget} svg.map .path")) == 1 + len(states[1]["vines"])
        press(browser, f"{widget} .groups button", "all states")


def test_playing_picking_a_signature_and_branches_where_they_leave(browser, fourrooms):
    open_report(browser, fourrooms / "evaluation/report.html")
    widget = "[data-widget='vines']"
    press(browser, f"{widget} .play")
    assert one(browser, f"{widget} .play").text == "pause"
    first = one(browser, f"{widget} .told").text
    time.sleep(0.6)
    assert one(browser, f"{widget} .told").text != first  # it moves on by itself
    press(browser, f"{widget} .play")
    assert one(browser, f"{widget} .play").text == "play"
    chips = all_of(browser, f"{widget} .chip")
    press(browser, f"{widget} .chip", chips[0].text)
    assert [chip.get_attribute("aria-pressed") for chip in all_of(browser, f"{widget} .chip")].count("true") == 1
    if len(chips) > 1:
        assert all_of(browser, f"{widget} svg.tree .faint")
    vines = all_of(browser, f"{widget} svg.tree title")
    assert len(vines) == 2 * 4 and "advantage" in vines[0].get_attribute("textContent")


def test_the_maps_show_each_start_state(browser, fourrooms):
    records = [json.loads(line) for line in (fourrooms / "evaluation/records.jsonl").read_text().splitlines()]
    open_report(browser, fourrooms / "evaluation/report.html")
    widget = "[data-widget='maps']"
    select = Select(one(browser, f"{widget} select"))
    assert len(select.options) == 6
    for option in [option.text for option in select.options]:
        select.select_by_visible_text(option)
        start = int(option.split()[-1])
        own = [r for r in records if r["start_seed"] == start and not r["greedy"] and r["perturb"] is None]
        panels = all_of(browser, f"{widget} .panel")
        assert [panel.find_element(By.CSS_SELECTOR, "h3").text.split()[0] for panel in panels] == ["walker", "tuned"]
        for panel, name in zip(panels, ("walker", "tuned"), strict=True):
            wins = sum(r["success"] for r in own if r["policy"] == name)
            assert f"{wins} of 5 succeed" in panel.text
            assert len(panel.find_elements(By.CSS_SELECTOR, ".path")) == 5
            assert len(panel.find_elements(By.CSS_SELECTOR, ".path polygon")) == wins
        press(browser, f"{widget} [data-show=wins]")
        assert len(all_of(browser, f"{widget} .path")) == sum(r["success"] for r in own)
        press(browser, f"{widget} [data-show=all]")
    before = select.first_selected_option.text
    press(browser, f"{widget} button[aria-label='next start state']")
    assert select.first_selected_option.text != before  # from the last one to the first


def test_answers_of_a_creativity_run_are_listed(browser, comparison):
    open_report(browser, comparison / "report.html")
    rows = all_of(browser, "[data-widget='vines'] tbody tr")
    assert len(rows) >= 2 and "<a_" in rows[0].text
    assert not all_of(browser, "[data-widget='maps']")
    said = [table.text for table in all_of(browser, "#answers .table")]
    assert len(said) == 3 and all("in 64 samples" in text for text in said)


def test_commands_can_be_copied_and_folded_parts_open(browser, fourrooms):
    open_report(browser, fourrooms / "evaluation/report.html")
    press(browser, "#origin > .command .copy")
    assert one(browser, "#origin > .command .copy").text in ("copied", "selected")
    summary = next(s for s in all_of(browser, "#origin summary") if s.text.startswith("Commands of the training"))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", summary)
    summary.click()
    assert "recipes/finetune.py --config" in summary.find_element(By.XPATH, "..").text
