"""A report whose policies, runs, start states and answers are named to run scripts: none runs, in the page or in what a
mouse brings up, and each name is shown as it is."""

import json
import sys
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests/unit"), str(ROOT / "tests/browser")]
from test_evaluation_summary import records  # noqa: E402
from test_report_page import all_of, open_report  # noqa: E402

from polytune.evaluation import summarise  # noqa: E402
from polytune.pictures.plot import plot_coverage  # noqa: E402
from polytune.report import of_evaluation, write_page  # noqa: E402
from polytune.running.provenance import origin  # noqa: E402
from polytune.tasks import load_task  # noqa: E402

PAYLOADS = [
    '<img src=x onerror="window.harmed=1">', "</script><script>window.harmed=2</script>", "javascript:window.harmed=3",
    "']; window.harmed=4; //", "${window.harmed=5}", "{{ ''.constructor.constructor('window.harmed=6')() }}",
    '"><svg onload="window.harmed=7">', "<!--<script>", "\\u003cscript\\u003ewindow.harmed=8\\u003c/script\\u003e",
    '" onmouseover="window.harmed=9" x="', "a|b `c` [d](javascript:window.harmed=10)", "\u202egnp.exe\x00\x1b[31m",
]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Every payload is a policy, its run's folder, an answer and a signature; returns the page's path and the names."""
    folder, task = tmp_path_factory.mktemp("report"), load_task("bandit")
    names = [f"{number} {payload}" for number, payload in enumerate(PAYLOADS)]
    taken, paths = [], {}
    for number, name in enumerate(names):
        own = records(name, {1: "wwll", 2: "llll"}, signature=(name, PAYLOADS[number]))
        taken += [record | {"actions": name, "stop_reason": name} for record in own]
        paths[name] = str(folder / str(number))
        (folder / str(number)).mkdir()
        lines = [{"step": step, "rollout/env_steps": 10.0 * step, "rollout/success": 0.5, "entropy": 1.0 / step,
                  name: 1.0} for step in (1, 2, 3)]  # fmt: skip
        (folder / str(number) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = {"task": {"task": name}, "origin": origin([name]), "objective": {"signature": name}}
        (folder / str(number) / "run.json").write_text(json.dumps(run))
        (folder / str(number) / "trees.jsonl").write_text(json.dumps({"start_state": name, "seeds": [name]}) + "\n")
    summary = summarise(taken, names) | origin(["recipes/evaluate.py", *names])
    summary |= {"policy_paths": paths, "settings": {"task": names[0], "split": names[1]}}
    write_page(of_evaluation.build(task, taken, summary, title=PAYLOADS[1]), folder / "report.html")
    plot_coverage(summary, taken, folder / "coverage.png", title=PAYLOADS[1])
    return folder / "report.html", names


def test_no_name_runs_a_script(browser, report):
    page, names = report
    open_report(browser, page)
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    for chart in all_of(browser, "[data-chart]")[:6]:  # tooltips, legends
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
        marks = chart.find_elements(By.CSS_SELECTOR, "svg path, svg rect, svg .role-legend-label text")
        for mark in [*marks[-3:], *marks[:2]]:
            try:
                ActionChains(browser).move_to_element(mark).perform()
            except Exception:  # an empty path has no place to point at
                continue
    for element in all_of(browser, "main button, main summary"):
        browser.execute_script("arguments[0].click()", element)
    told = "return [window.harmed ?? null, document.querySelectorAll('script').length]"
    assert browser.execute_script(told) == [None, 3]  # data, library, our own
    made = "return document.querySelectorAll('img[src=x], svg[onload], [onmouseover]').length"
    assert browser.execute_script(made) == 0
    links = "return [...document.querySelectorAll('a, [href]')].map(a => a.getAttribute('href') ?? a.href?.baseVal)"
    assert all(link.startswith("#") for link in browser.execute_script(links) if link)
    text = browser.execute_script("return document.body.textContent")
    for name in names[:-1]:
        assert name in text, name
    assert (page.parent / "coverage.png").stat().st_size > 10_000
