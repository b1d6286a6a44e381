"""Reports of real, tiny runs, and a headless Chromium without a network to open them in."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).resolve().parents[2]

from polytune.policy import build_tiny  # noqa: E402
from polytune.policy.rendering import PROMPT_WORD  # noqa: E402
from polytune.tasks import load_task  # noqa: E402


def run(program, *arguments):
    command = [sys.executable, str(ROOT / "recipes" / program), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert result.returncode == 0, f"{program}: {result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="session")
def fourrooms(tmp_path_factory):
    """An evaluation of a walker and of what two updates on vines made of it; the folder of its report."""
    folder = tmp_path_factory.mktemp("fourrooms")
    task = load_task("fourrooms")
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=1)
    with torch.no_grad():  # it nearly always says an action, and likes to walk on
        model.model.embed_tokens.weight += 1.0
        for action in task.actions:
            bonus = 0.115 if action == "forward" else 0.1
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(action)] += bonus
    for part in (model, tokenizer):
        part.save_pretrained(folder / "walker")
    small = ("--task_horizon", 24, "--split", "seeds:41-48", "--cpu_threads", 1)
    run("finetune.py", "--config", ROOT / "recipes/fourrooms/smoke.yaml", "--model", folder / "walker", *small,
        "--output_dir", folder / "run", "--num_updates", 3)  # fmt: skip
    run("evaluate.py", "--policies", f"walker={folder / 'walker'}", f"tuned={folder / 'run'}", *small, "--n", 5,
        "--perturb", "start_room", "--report", "--output_dir", folder / "evaluation")  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def comparison(tmp_path_factory):
    """The report of a comparison on triangle, one update a method; its folder."""
    folder = tmp_path_factory.mktemp("triangle")
    run("pretrain.py", "--config", ROOT / "recipes/creativity/triangle/demo_pretrain.yaml", "--epochs", 1,
        "--eval_every", 1000, "--output_dir", folder / "pretrained")  # fmt: skip
    run("compare.py", "--config", ROOT / "recipes/creativity/triangle/demo_compare.yaml", "--set", "num_updates=2",
        "--model", folder / "pretrained", "--num_start_states", 64, "--output_dir", folder / "out")  # fmt: skip
    return folder / "out"


@pytest.fixture(scope="session")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = (
        shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars",
                 "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1280,900"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def phone(browser):
    """The browser as a phone of 390 pixels."""
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
