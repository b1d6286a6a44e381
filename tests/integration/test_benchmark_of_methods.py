"""A run of the benchmark of methods on a world that has to be sampled, through the programs themselves."""

from walkers import save_walker

from polytune.app import methods_benchmark as program
from polytune.app.cli import parse
from polytune.comparison.benchmark import WINNERS, World, measure_start, run_one
from polytune.comparison.overlay import overlays
from polytune.comparison.run_store import RunStore

BASE = """\
extends: recipes/fourrooms/grpo.yaml
per_device_train_batch_size: 8
steps_per_generation: 1
num_iterations: 2
num_updates: 1
max_env_steps: 24
"""
COMPARE = """\
methods: [grpo={base}]
seeds: 1
task: fourrooms
task_horizon: 3
num_start_states: 2
model: {model}
n: 2
output_dir: unused
"""


def test_a_run_is_trained_sampled_measured_and_removed(tmp_path):
    save_walker(tmp_path / "policy", seed=0, forward=0.5)
    base, recipe = tmp_path / "grpo.yaml", tmp_path / "tiny_compare.yaml"
    base.write_text(BASE)
    recipe.write_text(COMPARE.format(base=base, model=tmp_path / "policy"))
    world = World.read(parse, recipe, tmp_path / "tiny")
    world.lay(parse, overlays(["clip_cov"]))
    store = RunStore(world.folder / "runs.jsonl")
    measure_start(world, store, program.call)
    line = run_one(world, "grpo", "clip_cov", 0, program.call)
    assert line.get("refused", line.get("failed")) is None
    assert (line["env_steps"], line["gradient_steps"], world.exact) == (24, 2, False)
    start = world.start_line(store)["values"]
    assert {"success", "pass@2", WINNERS, "entropy"} <= {*line["values"]} == {*start}
    assert line["cpu_seconds"] > 0
    assert not list((world.folder / "grpo").rglob("*.safetensors"))
