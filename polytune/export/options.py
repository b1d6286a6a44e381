"""The fields of an export."""

from __future__ import annotations

from dataclasses import dataclass, field

from polytune.checks import require, require_finite


@dataclass
class ExportConfig:
    """What ``recipes/export.py`` ships, and where to."""

    policy: str = field(
        default="outputs/quickstart/finetuned",
        metadata={"help": "Output folder of a finished run of recipes/finetune.py, or a checkpoint-N in it."},
    )
    output_dir: str = field(
        default="outputs/quickstart/export",
        metadata={"help": "Where the export goes; an earlier export there is replaced, anything else is refused."},
    )
    merge: bool = field(
        default=False, metadata={"help": "Merge the adapter into its base and export whole weights, which need none."}
    )
    base_model: str | None = field(
        default=None,
        metadata={"help": "Hub id of the adapter's base, when the run trained on a copy in a folder of its own."},
    )
    evaluation: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Output folders of recipes/evaluate.py whose figures the card shows; unset: those beside the run "
            "or in it that measured this very policy."
        },
    )
    licence: str = field(
        default="unknown", metadata={"help": "Licence of what is exported, as the Hub spells it: apache-2.0, mit, ..."}
    )
    push: str | None = field(default=None, metadata={"help": "USER/REPO on the Hub to upload to; unset: nothing."})
    private: bool = field(default=True, metadata={"help": "Create that repository as a private one."})
    overwrite_card: bool = field(
        default=False, metadata={"help": "Replace a README.md that the repository has; else it stays."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the Python code that a Hub model brings along. Read it before."}
    )

    def __post_init__(self) -> None:
        require_finite(self)
        if self.push is not None:
            user, slash, name = self.push.partition("/")
            require(
                bool(user and slash and name) and "/" not in name and not self.push.startswith((".", "~")),
                f"push is {self.push!r}, which is no repository on the Hub: write USER/REPO.",
            )
        require(
            self.push is not None or (self.private and not self.overwrite_card),
            "private and overwrite_card say how to push, and push is not set: give --push USER/REPO, or leave them.",
        )
        require(
            not (self.merge and self.base_model),
            f"base_model is {self.base_model!r}, but merge is true, and whole weights need no base: leave one out.",
        )
