"""Export a fine-tuned policy in the Hub's layout, with a model card, and push it when asked.

    python recipes/export.py --policy outputs/quickstart/lora --output_dir outputs/quickstart/export --merge true
    python recipes/export.py --policy outputs/run --base_model USER/BASE --licence apache-2.0 --push USER/REPO

An adapter is exported as one, or merged into its base (--merge); whole weights as they are. Nothing is written before a
fresh process, which loads the folder with plain transformers and peft, gives the logprobs that the trainer recorded.
The card shows the evaluations of this very policy that lie beside the run, or those named by --evaluation. --push needs
`hf auth login`; the repository is made private unless --private false.
"""

from collections.abc import Sequence
from pathlib import Path

from polytune.app.cli import parse, run, set_cpu_threads
from polytune.places import command
from polytune.privacy import private


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    from polytune.export.options import ExportConfig

    (config,) = parse((ExportConfig,), argv, description=__doc__)
    set_cpu_threads(None)
    output_dir = Path(config.output_dir)

    # ---------------------------------------------------------------- what is exported, refused before work is spent
    from transformers import AutoTokenizer

    from polytune.export import card, evaluations, facts, folder, licences, proof, source
    from polytune.running.provenance import write_json

    licences.check_licence(config.licence)
    policy = source.read_source(config.policy)
    folder.check_output(output_dir, policy)
    base = folder.check_base(policy, merge=config.merge, base_model=config.base_model, push=config.push)
    measured = evaluations.find_evaluations(policy, config.evaluation)
    tokenizer = AutoTokenizer.from_pretrained(str(policy.folder))
    sampling = facts.sampling(policy, tokenizer)
    if (unchecked := source.check_trained(policy)) is not None:
        print(f"note: {unchecked}")
    if policy.base is None:
        print(f"note: {config.policy} has no adapter: its whole weights are exported")
    for place, _ in measured:
        print(f"the card shows the evaluation in {place}")
    if not measured:
        print("note: no evaluation of this policy was found, and the card says so (recipes/evaluate.py, --evaluation)")
    if config.licence in licences.LICENCES_SAYING_NOTHING:
        print(f"note: the card's licence is {config.licence!r}: name one with --licence")

    # ---------------------------------------------------------------- write beside the output, prove, describe, rename
    with folder.staged(output_dir) as stage:
        folder.write_policy(policy, stage, base, trust_remote_code=config.trust_remote_code)
        folder.write_generation(stage, sampling)
        proved = proof.prove(stage, policy.recorded, trust_remote_code=config.trust_remote_code)
        told = facts.gather(
            policy,
            tokenizer,
            name=config.push.partition("/")[2] if config.push else policy.name,
            where=config.push or str(output_dir.resolve()),
            base=base,
            licence=config.licence,
            proof=proved,
            evaluations=[evaluation for _, evaluation in measured],
            command=command("export", argv),
        )
        (stage / "README.md").write_text(private(card.model_card(told)))
        write_json(stage / folder.EXPORT_FILE, private(facts.notes(told, policy)))
    print(f"proved: {proved.tokens} logprobs of a fresh process within {proved.largest:.2g} nats of the trainer's "
          f"(tolerance {proved.tolerance:g}, {proved.precision})")  # fmt: skip
    print(f"exported {config.policy} as {'whole weights' if base is None else f'an adapter on {base}'}: {output_dir}")

    # ---------------------------------------------------------------- push
    if config.push is not None:
        from polytune.export import hub

        address = hub.push(output_dir, config.push, private=config.private, overwrite_card=config.overwrite_card)
        print(f"pushed: {address}")


if __name__ == "__main__":
    run(main)
