"""Tables on pages, made from result files: a row of TABLES is a function of words, and gives Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from figures import COMMA, FORMATS, interval, look_up, short

LABELS = {
    "pretrained": "pretrained",
    "reinforce": "REINFORCE",
    "reinforce_ucb": "REINFORCE + UCB",
    "ppo": "PPO",
    "ppo_episode_mean": "PPO, mean over episodes",
    "ppo_archive_episode_mean": "PPO, mean over episodes, archive",
    "ppo_archive_replay": "PPO, mean over episodes, archive, replay",
    "ppo_ucb": "PPO + UCB",
    "grpo": "GRPO",
    "grpo_clip_higher": "GRPO, clip .2/.28",
    "grpo_episode_mean": "GRPO, mean over episodes",
    "grpo_archive_episode_mean": "GRPO, mean over episodes, archive",
    "poly_epo_std_episode_mean": "Poly-EPO over the std, mean over episodes",
    "maxrl": "MaxRL",
    "grpo_kl": "GRPO, KL to the pretrained policy",
    "pass_at_k": "pass@k policy optimisation",
    "poly_epo": "Poly-EPO",
    "poly_epo_group_std": "Poly-EPO, over each group's std",
    "poly_epo_clip_higher": "Poly-EPO, clip .2/.28",
    "poly_ppo": "Poly-PPO, sets over whole episodes",
    "ppo_replay": "PPO, mean over episodes, replay",
    "poly_ppo_replay": "Poly-PPO, mean over episodes, replay",
    "poly_ppo_falling_replay": "Poly-PPO, sets from 4 to 1, mean over episodes, replay",
    "poly_ppo_equally_spaced": "Poly-PPO, vines as published",
    "poly_ppo_ucb": "Poly-PPO + UCB, whole episodes",
    "set_bonus": "PPO, sets beside the critic",
    "set_bonus_falling": "PPO, sets beside the critic, falling",
    "archive": "PPO, archive of kinds",
    "archive_falling": "PPO, archive of kinds, falling",
    "archive_unsolved": "PPO, archive where little works",
    "poly_epo_falling": "Poly-EPO, sets shrinking to 1",
    "uncertain_max": "best of a set, uncertain reward",
    "poly_epo_floored": "Poly-EPO above a floor",
    "grpo_archive": "GRPO, KL, archive of kinds",
    "poly_epo_archive": "Poly-EPO, archive of kinds",
    "sets": "Poly-EPO",
}
SETTINGS = {
    "base": "2e-4",
    "lr1e-4": "1e-4",
    "lr4e-4": "4e-4",
    "iter4": "four passes",
    "flat": "flat success",
}
#: load before a run of the speed run from which on its cores were not its own
LOADED = 0.5


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def policies(path: str, *columns: str) -> str:
    """A row for each policy of a comparison. columns: ``TITLE=MEASURE`` or ``TITLE=MEASURE, FORMAT``."""
    found = look_up(f"{path}:policies")
    titles, keys = zip(*(column.rsplit("=", 1) for column in columns), strict=True)
    rows = [[LABELS[name], *(_cell(own, key) for key in keys)] for name, own in found.items()]
    return markdown(["policy", *titles], rows)


def differences(path: str, baseline: str, *columns: str) -> str:
    """Paired differences of each method to ``baseline``; what is resolved is bold. columns: as of `policies`."""
    found = look_up(f"{path}:differences:{baseline}")
    titles, keys = zip(*(column.rsplit("=", 1) for column in columns), strict=True)
    rows = []
    for name, own in found.items():
        cells = [_cell(own, f"{key}, +2" if "winning" in key else f"{key}, +") for key in keys]
        resolved = [own[key]["low"] > 0 or own[key]["high"] < 0 for key in keys]
        rows.append([LABELS[name], *(f"**{c}**" if sure else c for c, sure in zip(cells, resolved, strict=True))])
    return markdown(["method", *titles], rows)


def _cell(measures: Mapping[str, Any], key: str) -> str:
    key, _, style = key.partition(", ")
    return FORMATS[style](measures[key])


def search(path: str = "fourrooms_levers") -> str:
    """The search of every method's own fields: four measures of each setting; the largest area is bold."""
    found = look_up(f"{path}:search:methods")
    rows = []
    for method in ("ppo", "grpo", "poly_epo", "poly_ppo", "poly_ppo_equally_spaced"):
        own = found[method]
        best = max(own, key=lambda name: own[name]["coverage_area"])
        cells = []
        for setting in SETTINGS:
            run = own.get(setting)
            keys = ("success", "pass@8", "pass@32", "coverage_area")
            text = "not run" if run is None else " ".join(short(run[key]) for key in keys)
            cells.append(f"**{text}**" if setting == best else text)
        rows.append([LABELS[method], *cells])
    return markdown(["success, pass@8, pass@32, area", *SETTINGS.values()], rows)


def reproduction(path: str) -> str:
    """The paper's Table 1 beside ours, in per cent."""
    found, paper = look_up(path), look_up(f"{path}:published")
    comparison, moved = found["comparison"], found["comparison"]["perturbed"]["start_room"]["policies"]
    percent, gained = FORMATS["%"], comparison["differences"]["pretrained"]
    rows = []
    for name, own in comparison["policies"].items():
        published, start = paper["success"].get(name), paper["success"]["pretrained"]
        other = paper["perturbed"]["start_room"].get(name)
        gain = name != "pretrained"
        rows.append(
            [
                LABELS[name],
                "" if published is None else percent(published),
                percent(own["success"]),
                "" if published is None or not gain else f"{100 * (published - start):+.1f}",
                _signed_percent(gained[name]["success"]) if gain else "",
                "" if other is None else percent(other),
                percent(moved[name]["success"]),
            ]
        )
    head = ["success, %", "paper", "ours", "gain: paper", "ours", "from another room: paper", "ours"]
    return markdown(head, rows)


def _signed_percent(cell: Mapping[str, float]) -> str:
    estimate, low, high = (f"{100 * cell[key]:+.1f}" for key in ("estimate", "low", "high"))
    return f"{estimate} [{low}{COMMA}{high}]"


def arithmetic() -> str:
    """The arithmetic data set: training and unseen problems."""
    train, test = (look_up(f"arithmetic_one_seed:{split}:policies") for split in ("train", "test"))
    named = LABELS | {"poly_epo": "Poly-EPO, over each group's std"}
    one = FORMATS["1"]
    rows = [
        [named[name], *(FORMATS[""](train[name][key]) for key in ("success", "pass@8")),
         one(train[name]["distinct_winning_signatures"]),
         *(FORMATS[""](test[name][key]) for key in ("success", "pass@32"))]
        for name in train
    ]  # fmt: skip
    head = [
        "policy",
        "training problems: success",
        "pass@8",
        "calculations in 32 answers",
        "unseen: success",
        "pass@32",
    ]
    return markdown(head, rows)


#: case of speed.json -> the ratio that was aimed at
AIMED = {"goto": 3, "goto_vines": 5, "fourrooms": 2.5, "triangle": 3, "large": 1, "large_vines": 1.5}


def speed() -> str:
    """Steps of a CPU second before and now, and peak memory."""
    rows = []
    for name, aimed in AIMED.items():
        case = look_up(f"speed:cases:{name}")
        rates = [case[tree]["per_cpu_second"] for tree in ("old", "new")]
        memory = " → ".join(f"{case[tree]['peak_mib']['median']:,.0f}" for tree in ("old", "new"))
        ratio = f"{case['ratio_per_cpu_second']:.1f} ({aimed})"
        once = "" if case["repeats"] > 1 else " (one run)"
        rows.append([case["title"] + once, *map(_spread, rates), ratio, memory])
    return markdown(["loop", "before", "now", "ratio (aimed at)", "peak memory, MiB"], rows)


def _spread(rate: Mapping[str, float]) -> str:
    digits = 1 if rate["median"] < 100 else 0
    median, low, high = (f"{rate[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return median if low == high else f"{median} [{low}{COMMA}{high}]"


def branch_points() -> str:
    """What groups that start at a share of the turns are worth."""
    points = look_up("fourrooms_branch_points:points")
    measures = {
        "variance of success within a group": ("variance", 3),
        "groups with signal": ("live", 2),
        "mean set advantage (absolute)": ("advantage", 4),
        "distinct room sets of 8": ("distinct", 1),
    }
    head = ["vines start after this share of the turns", *(f"{point['at']:.1g}" for point in points)]
    rows = [[title, *(short(p[key], digits) for p in points)] for title, (key, digits) in measures.items()]
    return markdown(head, rows)


def generators() -> str:
    """The two generators on CPUs: environment steps a second."""
    rows = []
    for size in look_up("generators_cpu:sizes"):
        found = look_up(f"generators_cpu:sizes:{size}")
        for work in ("episodes", "trees"):
            own = found[work]
            rates = [own[name]["env_steps_per_s"]["median"] for name in ("transformers", "vllm")]
            reused = ""
            if work == "trees":
                reused = ", ".join(f"{100 * own[name]['reused_share']:.0f} %" for name in ("transformers", "vllm"))
            parameters = f"{found['parameters'] / 1e6:.0f} M"
            what = f"{work}, {found['turns']} turns"
            rows.append([parameters, what, *(f"{rate:,.0f}" for rate in rates), short(own["ratio"], 2), reused])
    head = ["parameters", "work", "transformers", "vLLM", "ratio", "prefixes reused: transformers, vLLM"]
    return markdown(head, rows)


def merges() -> str:
    """Tokens of a turn in rollouts by the number of merges."""
    found = look_up("word_merges:tokens_in_rollouts")
    counts = ("0", "50", "100", "200")
    rows = []
    for task, title, key in (
        ("fourrooms", "FourRooms, an observation with its `>`", "with_prompt_word"),
        ("babyai-goto", "GoTo, an observation with its `>`", "with_prompt_word"),
        ("babyai-goto", "GoTo, a whole turn", "whole_turn"),
    ):
        rows.append([title, *(f"{found[task][n][key]:.2f}" if n in found[task] else "" for n in counts)])
    return markdown(["tokens in rollouts", *(f"{n} merges" for n in counts)], rows)


def merges_success() -> str:
    """Success of FourRooms' and GoTo's pretraining at equal steps, with and without merges; means over seeds."""
    rows = []
    for task, counts in (("fourrooms", ("0", "50")), ("babyai-goto", ("0", "100", "200"))):
        for count in counts:
            found = look_up(f"word_merges:{task}:word_merges_{count}")
            runs = [own for name, own in found.items() if name.startswith("seed")]
            steps = list(runs[0]["success_at_step"])
            early = _mean(run["success_at_step"][steps[0]] for run in runs)
            late = _mean(run["success_at_step"][steps[-1]] for run in runs)
            unseen = "" if task != "fourrooms" else short(_mean(run["success_on_400_unseen_levels"] for run in runs))
            loss, seconds = (_mean(run[key] for run in runs) for key in ("held_out_loss", "seconds"))
            told = f"{'FourRooms' if task == 'fourrooms' else 'GoTo'}, {count} merges, {len(runs)} seed(s)"
            rows.append([told, *map(short, (early, late)), unseen, short(loss), f"{seconds:.0f}"])
    head = ["", "success early", "success at the end", "400 unseen levels", "held-out loss", "seconds"]
    return markdown(head, rows)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


#: preset -> the architecture before and now, as presets.json names them for speed and for success
PRESETS = {
    "tiny": ("qwen3 3x32", "llama 1x96", "qwen3_3_heads_of_32", "llama_1_head_of_96"),
    "small": ("qwen3 4x32", "llama 2x64", "qwen3_4_heads_of_32", "llama_2_heads_of_64"),
    "medium": ("qwen3 6x32", "llama 3x64", None, None),
}


def presets() -> str:
    """Tokens a CPU second of the presets before and now, and success of FourRooms' pretraining."""
    rows = []
    for name, (old, new, *runs) in PRESETS.items():
        speeds = [look_up(f"presets:speed:{name}:{which}") for which in (old, new)]
        keys = ("forward_backward_tokens_a_cpu_second", "decoded_tokens_a_cpu_second")
        pairs = [" → ".join(f"{own[key]:,}" for own in speeds) for key in keys]
        success = ["", ""]
        if all(runs):
            found = [look_up(f"presets:fourrooms:{name}:{run}:summary") for run in runs]
            success = [
                " → ".join(short(own[f"success_at_{at}"]["mean"]) for own in found) for at in (57, 228)
            ]  # fmt: skip
        rows.append([f"{name}, {speeds[1]['parameters'] / 1e6:.1f} M", *pairs, *success])
    head = ["preset", "training, tokens a CPU second", "decoding", "success after 57 steps", "after 228"]
    return markdown(head, rows)


def tutorial() -> str:
    """The bandit of the tutorial: means over seeds."""
    means = look_up("tutorial:means")
    named = {
        "pretrained": "pretrained",
        "mean": "`mean` (standard RL)",
        "polychromic": "`polychromic` (sets)",
        "polychromic, exact gradient": "optimum of `polychromic`",
    }
    keys = ("red", "green", "blue", "success", "wins in 6", "without red")
    rows = [[told, *(short(means[name][key], 2) for key in keys)] for name, told in named.items()]
    head = ["policy", *keys[:4], "winning arms found in 6 pulls", "success if red stops paying"]
    return markdown(head, rows)


def memory() -> str:
    """What runs were measured to need: peak memory and rate, on CPUs."""
    rows = []
    for name in ("fourrooms", "goto", "large"):
        case = look_up(f"speed:cases:{name}")
        rate, peak = case["new"]["per_cpu_second"]["median"], case["new"]["peak_mib"]["median"]
        size = "100 M" if name == "large" else "0.4 M"
        rows.append([case["title"].removeprefix("100 M parameters, "), size, f"{peak:,.0f} MiB", f"{rate:,.0f}"])
    for name, what in (
        ("lora", "FourRooms, LoRA on SmolLM2-135M"),
        ("critic_adapter", "the same, critic with its own adapter"),
    ):
        case = look_up(f"smollm2:cases:{name}")
        rows.append([what, "135 M", f"{case['peak_mib']:,} MiB", f"{case['env_steps_per_cpu_second']:.1f}"])
    return markdown(["run", "parameters", "peak memory", "environment steps a CPU second"], rows)


def speedrun() -> str:
    """The board of the speed run, in its order; the minutes of a run that had not its cores alone are marked."""
    targets = look_up("speedrun:rules:targets")
    rows = []
    for run in look_up("speedrun:runs"):
        short_of = sum(max(0.0, goal - run["measures"][name]["estimate"]) for name, goal in targets.items())
        minutes = f"{run['minutes']:.1f}{' *' if run['load'] > LOADED else ''}"
        measures = [interval(run["measures"][name]) for name in targets]
        distance = short(short_of) if short_of else "reached"
        rows.append(
            [run["entry"], run["seed"], minutes, f"{run['cpu_minutes']:.1f}", *measures, distance, run["commit"]]
        )
    if not rows:
        return "No run is on the board yet."
    head = ["entry", "seed", "minutes", "CPU minutes", *targets, "short of the targets", "commit"]
    return markdown(head, [[str(cell) for cell in row] for row in rows])


def tried(path: str) -> str:
    """A row for each setting that was tried on one seed."""
    titles = {"name": "method", "fields": "its fields", "learning_rate": "learning rate", "success": "success",
              "pass@8": "pass@8", "pass@32": "pass@32", "distinct_winning_signatures": "winning room sets"}  # fmt: skip
    trials = look_up(f"{path}:trials")
    shown = [key for key in titles if key in trials[0]]
    rows = [[_tried(own[key], "2" if "winning" in key else "") for key in shown] for own in trials]
    return markdown([titles[key] for key in shown], rows)


def _tried(value: str | float, style: str) -> str:
    return value if isinstance(value, str) else FORMATS[style](value)


def speedrun_tried() -> str:
    """Short runs that looked for an entry, on levels that are not the judge's."""
    targets = look_up("speedrun:rules:targets")
    found = look_up("speedrun:tried:policies")
    rows = [[own["what"], *(interval(own[name]) for name in targets)] for own in found]
    return markdown(["policy", *targets], rows)


TABLES: dict[str, Callable[..., str]] = {
    "policies": policies,
    "differences": differences,
    "search": search,
    "reproduction": reproduction,
    "arithmetic": arithmetic,
    "speed": speed,
    "branch_points": branch_points,
    "generators": generators,
    "merges": merges,
    "merges_success": merges_success,
    "presets": presets,
    "tutorial": tutorial,
    "memory": memory,
    "speedrun": speedrun,
    "tried": tried,
    "speedrun_tried": speedrun_tried,
}
