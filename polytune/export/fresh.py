"""Score recorded episodes with an exported folder, as somebody who has never heard of polytune would load it.

    python polytune/export/fresh.py FOLDER EPISODES.json RESULT.json

A program of its own, which imports nothing of ours: plain transformers and peft. ``polytune/export/proof.py`` runs it.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def load(folder: Path, dtype: str, trust_remote_code: bool) -> torch.nn.Module:
    """The exported policy, an adapter on the base that its configuration names."""
    options = {"dtype": getattr(torch, dtype), "trust_remote_code": trust_remote_code}
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    from peft import PeftModel

    settings = json.loads((folder / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(
        settings["base_model_name_or_path"], revision=settings.get("revision") or "main", **options
    )
    return PeftModel.from_pretrained(base, folder).eval()


def logprobs(model: torch.nn.Module, episode: dict, temperature: float) -> list[float]:
    """Of the episode's own tokens."""
    ids = torch.tensor([episode["prompt_ids"] + episode["completion_ids"]], device=next(model.parameters()).device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(episode["prompt_ids"]) - 1 : -1]
    scored = (logits.float() / temperature).log_softmax(-1).gather(1, ids[0, len(episode["prompt_ids"]) :, None])[:, 0]
    return scored[torch.tensor(episode["own_C"], dtype=torch.bool, device=ids.device)].tolist()


def main() -> None:
    """Read the command line, score the episodes, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("folder", "episodes", "result"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--trust_remote_code", action="store_true")
    asked = parser.parse_args()
    recorded = json.loads(asked.episodes.read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load(asked.folder, recorded["dtype"], asked.trust_remote_code).to(device)
    mixed = recorded["autocast"]
    with torch.no_grad(), torch.autocast(device, getattr(torch, mixed)) if mixed else contextlib.nullcontext():
        found = [logprobs(model, episode, recorded["temperature"]) for episode in recorded["episodes"]]
    assert not any(name.partition(".")[0] == "polytune" for name in sys.modules), "the proof must not need polytune"
    asked.result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
