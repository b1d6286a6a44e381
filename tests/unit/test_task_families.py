"""Names "PREFIX:NAME" of tasks that another package brings, where that package is not installed."""

import pytest

from polytune.tasks import load_task, reasoning


def test_a_package_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(reasoning, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"reasoning-gym is not installed: pip install 'polytune\[worlds\]'"):
        load_task("reasoning-gym:countdown")


@pytest.mark.parametrize("said, final", [
    ("<answer> 7 </answer>", "7"), ("<answer>1</answer> no, <answer>2\n3</answer>.", "2\n3"), (" 7 \n", "7"),
    ("", None), ("<answer></answer>", None), ("<answer>7", "<answer>7"),
])  # fmt: skip
def test_the_final_answer(said, final):
    assert reasoning.final_answer(said) == final
