"""Proof of export: differences by hand, tolerances, what is recorded; folders that appear whole or not at all."""

import math

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from polytune.export.folder import staged
from polytune.export.hub import why
from polytune.export.options import ExportConfig
from polytune.export.proof import ProofError, compare, precision_of
from polytune.rollout import Trajectory, Tree
from polytune.rollout.tree import Turn
from polytune.trainer.recorded import choose

RECORDED = {"dtype": "float32", "autocast": None, "episodes": [{"logprobs": [-1.0, -2.0]}, {"logprobs": [-3.0]}]}


def test_the_largest_difference_and_where():
    proof = compare(RECORDED, [[-1.0, -2.00005], [-3.0]], "float32")
    assert (proof.episodes, proof.tokens, proof.tolerance) == (2, 3, 1e-4)
    assert proof.largest == pytest.approx(5e-5) and proof.mean == pytest.approx(5e-5 / 3)
    with pytest.raises(ProofError, match=r"up to 0\.001 nats \(token 0 of episode 1: -3\.000000 trained, -3\.001"):
        compare(RECORDED, [[-1.0, -2.0], [-3.001]], "float32")


def test_bfloat16_allows_rounding_and_no_more():
    assert compare(RECORDED, [[-1.0, -2.02], [-3.0]], "bfloat16").largest == pytest.approx(0.02)
    with pytest.raises(ProofError, match="0.02 on average, and bfloat16 allows 0.1 and 0.01"):
        compare(RECORDED, [[-1.02, -2.02], [-3.02]], "bfloat16")
    with pytest.raises(ProofError, match="up to 0.2"):
        compare(RECORDED | {"episodes": [{"logprobs": [-1.0] * 100}]}, [[-1.2] + [-1.0] * 99], "bfloat16")
    assert precision_of({"dtype": "float32", "autocast": "bfloat16"}) == "bfloat16"
    with pytest.raises(ProofError, match="recorded in float16, for which no tolerance"):
        precision_of({"dtype": "float16", "autocast": None})


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_agreement(broken):
    with pytest.raises(ProofError, match="logprob of token 1 of recorded episode 0"):
        compare(RECORDED, [[-1.0, broken], [-3.0]], "float32")
    same = {"episodes": [{"logprobs": [broken]}]}
    with pytest.raises(ProofError, match="weights are broken"):
        compare(same, [[broken]], "float32")


def test_no_tokens_or_other_counts_prove_nothing():
    with pytest.raises(ProofError, match="no token of the policy's"):
        compare({"episodes": [{"logprobs": []}]}, [[]], "float32")
    with pytest.raises(ValueError):
        compare(RECORDED, [[-1.0, -2.0]], "float32")
    with pytest.raises(ValueError):
        compare(RECORDED, [[-1.0], [-3.0]], "float32")


def test_episodes_of_as_many_trees_as_there_are():
    def tree(start, seeds):
        turns = [Turn((start, 9), (-1.0, -1.0), 0.0, (7,)), Turn((start,), (-1.0,), 1.0)]
        own = [Trajectory(turns=turns) for _ in range(seeds)]
        return Tree(start, (1, 2), own, [[[Trajectory(own[0], 1, turns=turns[1:])]] for _ in own])

    chosen = choose([tree(5, 3), tree(6, 1)])
    assert [episode["start_state"] for episode in chosen] == [5, 6, 5, 5]
    assert chosen[0] == {
        "start_state": 5, "prompt_ids": [1, 2], "completion_ids": [5, 9, 7, 5], "own_C": [1, 1, 0, 1]
    }  # fmt: skip
    assert len(choose([tree(n, 1) for n in range(9)])) == 4 and choose([]) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    output = tmp_path / "there/export"
    with pytest.raises(RuntimeError), staged(output) as stage:
        (stage / "file").write_text("half")
        raise RuntimeError
    assert list(output.parent.iterdir()) == []
    with staged(output) as stage:
        (stage / "file").write_text("first")
        assert not output.exists()
    with pytest.raises(RuntimeError), staged(output) as stage:
        raise RuntimeError
    assert (output / "file").read_text() == "first"
    with staged(output) as stage:
        (stage / "other").write_text("second")
    assert [path.name for path in output.iterdir()] == ["other"]
    # killed between the two renames of a replacement: the earlier export comes back
    output.rename(output.with_name(".export.replaced"))
    output.with_name(".export.exporting").mkdir()
    with pytest.raises(RuntimeError), staged(output):
        raise RuntimeError
    assert [path.name for path in output.parent.iterdir()] == ["export"] and (output / "other").is_file()


def refusal(status, message):
    request = httpx.Request("POST", "https://hub/api", headers={"Authorization": "Bearer hf_secret"})
    response = httpx.Response(status, request=request, json={"error": message})
    return HfHubHTTPError(f"{status}: {message}", response=response, server_message=message)


@pytest.mark.parametrize("error, words", [
    (LocalTokenNotFoundError("no token"), "run `hf auth login`"),
    (refusal(401, "Invalid"), "does not know your token"),
    (refusal(403, "Forbidden"), "may not write to me/it .Forbidden."),
    (refusal(403, "Private storage quota exceeded"), "no room for it .Private storage quota exceeded."),
    (refusal(402, "pay"), "no room for it"),
    (refusal(503, "x"), "status 503"),
    (httpx.ConnectTimeout("slow"), "cannot be reached .ConnectTimeout"),
    (ValueError("LFS batch API returned errors:\nstorage limit"), "no room left .storage limit"),
])  # fmt: skip
def test_reasons_and_remedies(error, words):
    import re

    said = why(error, "me/it")
    assert re.search(words, said), said
    assert "hf_secret" not in said and "\n" not in said
    wrapped = RuntimeError("Error while uploading")
    wrapped.__cause__ = error
    assert isinstance(error, ValueError) or why(wrapped, "me/it") == said


@pytest.mark.parametrize("fields, words", [
    ({"push": "name"}, "write USER/REPO"),
    ({"push": "./a"}, "write USER/REPO"),
    ({"push": "a/b/c"}, "write USER/REPO"),
    ({"private": False}, "push is not set"),
    ({"overwrite_card": True}, "push is not set"),
    ({"merge": True, "base_model": "a/b"}, "whole weights need no base"),
])  # fmt: skip
def test_contradictions(fields, words):
    with pytest.raises(ValueError, match=words):
        ExportConfig(**fields)
