"""What a method is: one class whose hooks say what it changes of an update. A hook that is not written changes nothing.

Before the first update ``begin``, with the policy that the run began with. The order of an update:

    reference       which policy the KL term refers to
    behave          what policy samples, where that is not the trained one
    wanted_rows     how many trees fit into a batch
    starts          before trees grow
    temperature     with which they then grow, and of all logprobs of the update
    stop            after each turn of an episode that goes on
    again           when they have grown, for episodes that go on from what they showed
    replay          then, into the rows that they leave
    probe           while the fresh rows are scored, for numbers that only this pass can give
    reward          before sets and critic score the turns
    turn_advantage  once sets and critic have scored the turns, and both populations are scaled
    advantage       once the advantages are spread over tokens
    learn           at the end, before the update's passes
    weight, loss    in each minibatch of each pass: first all weights, then all losses
    replayed        there, too, of the rows that ``replay`` gave

Methods run in the order in which the run names them. What a hook sees is one process's part of the update; ``sum`` and
``gather`` reach over all processes, and every process must call them equally often.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch

from polytune.meanings import Metric
from polytune.rollout import Row, Start, Trajectory, Tree, Walk

#: of a policy: name -> tensor
Weights = Mapping[str, torch.Tensor]
#: of a row's completion tokens: logprobs and entropies, 0 off its own ones
Scored = tuple[list[float], list[float]]
#: rows -> what the policy of this moment says of each, in this process
Score = Callable[[Sequence[Row]], list[Scored]]
#: whose distributions over the vocabulary are in memory at the same time
TOKENS_AT_ONCE = 2048


class Beginning(NamedTuple):
    """What ``begin`` gets, the same in every process.

    start_states: those of the run.
    grow: trees from some starts, by the policy that the run began with, of all processes, in the order of the starts;
        their environment steps are paid from the run's budget. Every process must call it equally often.
    demonstrate: an expert's successful episode from a start state as a row, logprobs 0; None where there is none.
    score: of the policy that the run began with.
    shown: signatures that the task's training data shows; none where it has no such data.
    """

    start_states: Sequence[int]
    grow: Callable[[Sequence[Start]], list[Tree]]
    demonstrate: Callable[[int], Row | None]
    score: Score | None = None
    shown: Callable[[], frozenset[Hashable]] = frozenset


class Grown(NamedTuple):
    """What ``again`` gets.

    trees: this process's, with the task's signatures.
    grow: whole episodes from more starts, by the same policy, in this process; their environment steps are paid from
        the run's budget. Nobody but the method sees them.
    score: of any rows, by the same policy.
    text: tokens of an observation or an action -> text.
    gather, record, progress: as of :class:`Update`.
    """

    trees: Sequence[Tree]
    grow: Callable[[Sequence[Start]], list[Tree]]
    score: Score
    text: Callable[[Sequence[int]], str] = str
    gather: Callable[[list], list] = list
    record: Callable[[str, float], None] = lambda name, value: None
    progress: float = 0.0


class Apart(NamedTuple):
    """What ``behave`` gets: the policy that will sample, at first the trained one.

    weights: those that train, to be changed in place, alike in every process.
    logprobs: of rows, (b, C) with gradients of ``weights``, 0 off own tokens.
    record: as of :class:`Update`.
    """

    weights: Sequence[torch.nn.Parameter]
    logprobs: Callable[[Sequence[Row]], torch.Tensor]
    record: Callable[[str, float], None] = lambda name, value: None


@dataclass
class Update:
    """Fresh rollouts: the trees of one process, their B rows in the order of ``Tree.trajectories``, then blank rows.

    seed: of random numbers, another one in every run, update and process.
    turns_mask_B_T: own turns, without blank rows.
    bonus_B_T: what the hooks ``reward`` have added to the rewards of turns, (B, T); 0 until they have.
    scored_B_T: those that sets or the critic have scored; None until they have.
    groups_G_N: row numbers of independent attempts from one state: vines of a rollout state, episodes of a start state.
        Groups may differ in size.
    probed: name -> (B, ...), what the hooks ``probe`` read.
    turn_index_B_C: own turn of each completion token, -1 off the row's own tokens; blank rows are all -1.
    logprobs_B_C: of the policy that sampled, float32; 0 or anything off own tokens.
    sum, gather: of numbers, and of the items of lists, over all processes.
    record: logs a number of the update in metrics.jsonl.
    progress: share of the run's updates that have been made, below 1.
    gamma: the run's discount.
    head: hidden states -> logits, as of :class:`Seen`.
    text: tokens of an observation or an action -> text.
    reference_B_C: logprobs of the policy that the run began with, where ``kl_reference`` is 'pretrained'.
    score: of any rows, by the policy that sampled the update.
    """

    seed: int
    trees: Sequence[Tree]
    turns_mask_B_T: torch.Tensor
    turn_index_B_C: torch.Tensor
    logprobs_B_C: torch.Tensor
    groups_G_N: Sequence[Sequence[int]] = ()
    probed: dict[str, torch.Tensor] = field(default_factory=dict)
    bonus_B_T: torch.Tensor | float = 0.0
    scored_B_T: torch.Tensor | None = None
    sum: Callable[[list[float]], list[float]] = list
    gather: Callable[[list], list] = list
    record: Callable[[str, float], None] = lambda name, value: None
    progress: float = 0.0
    gamma: float = 1.0
    head: Callable[[torch.Tensor], torch.Tensor] | None = None
    text: Callable[[Sequence[int]], str] = str
    reference_B_C: torch.Tensor | None = None
    score: Score | None = None

    @property
    def grown(self) -> list[tuple[Tree, Trajectory]]:
        """Of each row the tree and what was grown in it."""
        return [(tree, trajectory) for tree in self.trees for trajectory in tree.trajectories()]

    @property
    def trajectories(self) -> list[Trajectory]:
        """One a row."""
        return [trajectory for _, trajectory in self.grown]

    @property
    def own_B_C(self) -> torch.Tensor:
        """True at the tokens that the policy sampled in the row itself."""
        return self.turn_index_B_C >= 0


@dataclass
class Seen:
    """Rows of one pass of the policy over fresh rollouts, b of the update's, L tokens with their prompts.

    hidden_b_L_H: last hidden states, each after its token.
    first_b: where each row's completion begins.
    ids_b_C, own_b_C: completion tokens; True where the policy sampled them in the row itself.
    head: hidden states -> logits (at the temperature of the run, without the factors of ``temperature``).
    """

    hidden_b_L_H: torch.Tensor
    first_b: torch.Tensor
    ids_b_C: torch.Tensor
    own_b_C: torch.Tensor
    head: Callable[[torch.Tensor], torch.Tensor]

    def at(self, before: int = 0) -> torch.Tensor:
        """Hidden states (d, H) of the own tokens, row by row; ``before`` 1: at the token before each, from which the
        policy sampled it."""
        rows_d, columns_d = self.own_b_C.nonzero(as_tuple=True)
        return self.hidden_b_L_H[rows_d, self.first_b[rows_d] + columns_d - before]

    def mean(self) -> torch.Tensor:
        """Mean hidden state (b, H), float32, over a row's own tokens; 0 in rows without any."""
        rows_d = self.own_b_C.nonzero(as_tuple=True)[0]
        sums_b_H = self.hidden_b_L_H.new_zeros(len(self.own_b_C), self.hidden_b_L_H.size(-1), dtype=torch.float32)
        sums_b_H.index_add_(0, rows_d, self.at().float())
        return sums_b_H / self.own_b_C.sum(dim=1, keepdim=True).clamp(min=1)

    def distributions(self) -> Iterator[torch.Tensor]:
        """Logprobs (c, V) of all tokens at some own tokens after the other, row by row, in float32."""
        return distributions(self.head, self.at(before=1))

    def entropies(self) -> torch.Tensor:
        """Of the distributions of own tokens, in nats, (b, C); 0 elsewhere."""
        found = [-(logprobs_c_V.exp() * logprobs_c_V).sum(dim=-1) for logprobs_c_V in self.distributions()]
        return self.spread(torch.cat(found))

    def spread(self, numbers_d: torch.Tensor) -> torch.Tensor:
        """(b, C, ...) of what each own token has, 0 elsewhere."""
        spread_b_C = numbers_d.new_zeros(*self.own_b_C.shape, *numbers_d.shape[1:])
        spread_b_C[self.own_b_C] = numbers_d
        return spread_b_C


def distributions(head: Callable[[torch.Tensor], torch.Tensor], hidden_d_H: torch.Tensor) -> Iterator[torch.Tensor]:
    """Logprobs (c, V) of some hidden states after the other, float32: those of all of an update's tokens over a
    vocabulary do not fit into memory at once."""
    return (head(hidden_c_H).float().log_softmax(dim=-1) for hidden_c_H in hidden_d_H.split(TOKENS_AT_ONCE))


@dataclass
class Minibatch:
    """Rows of one backward pass, b of the update's, all tensors (b, C); ``logprobs_b_C`` carries gradients.

    old_b_C: logprobs of the policy that sampled.
    advantages_b_C: as ``advantage`` left them, without weights.
    set_deductions_b_C: what its losing sets take from a token, >= 0 (a credit rule with deductions: ``per_set``), else
        None.
    mask_b_C: 1 at own tokens.
    epsilon: (low, high) of the clip range.
    tensors: what the hooks ``advantage`` left there, these rows of it.
    entropies_b_C: of the tokens' distributions, with gradients; None for replayed rows.
    weight: the product of all ``weight`` hooks, once they have run.
    record: logs the mean of values (b, C) where a mask (b, C) is 1, over all processes.
    """

    logprobs_b_C: torch.Tensor
    old_b_C: torch.Tensor
    advantages_b_C: torch.Tensor
    set_deductions_b_C: torch.Tensor | None
    mask_b_C: torch.Tensor
    epsilon: tuple[float, float]
    tensors: dict[str, torch.Tensor]
    entropies_b_C: torch.Tensor | None = None
    weight: torch.Tensor | float = 1.0
    record: Callable[[str, torch.Tensor, torch.Tensor], None] = lambda name, values, mask: None

    @property
    def ratio_b_C(self) -> torch.Tensor:
        """pi / pi_old of the sampled tokens."""
        return (self.logprobs_b_C - self.old_b_C).exp()


@dataclass
class Method:
    """A dataclass: its fields are its options in ``method_args``, checked in ``__post_init__``; what is set after them
    is its state. ``needs_snapshots``: it reads ``Trajectory.snapshots`` of seed trajectories. ``signs``: an example of
    the signatures that it gives attempts in ``reward``, in the place of those that they have; None: it gives none.
    ``only_adds``: ``turn_advantage`` adds numbers of at least 0 to advantages and does nothing else to them, so that it
    may stand beside a credit rule that keeps what sets give and take apart (``per_set``). ``rewrites``: ``advantage``
    may do other than add such numbers to those of tokens, so that it may not.
    ``replaces``: "loss" where ``loss`` stands in the place of the clipped surrogate, at all tokens or some, so that no
    other method may do so, or weigh it; "advantages" where ``turn_advantage`` reads none of those that it is given, so
    that methods before it would have changed them for nothing; "return" where ``reward`` takes an attempt's own return
    away and gives another one, which only one method may.
    ``logs``: what the figures mean that it records. ``page``: that of the documentation on which it stands, where its
    hooks do not say it (docs/site/families.py)."""

    needs_snapshots: ClassVar[bool] = False
    signs: ClassVar[Any] = None
    only_adds: ClassVar[bool] = False
    rewrites: ClassVar[bool] = False
    replaces: ClassVar[str] = ""
    logs: ClassVar[Mapping[str, Metric]] = {}
    page: ClassVar[str] = ""

    def has(self, hook: str) -> bool:
        """Whether it writes this hook of its own."""
        return getattr(type(self), hook) is not getattr(Method, hook)

    @property
    def pays_failures(self) -> bool:
        """Whether ``reward`` may lift a failure above 0, or press a success to 0 or below."""
        return self.has("reward")

    def says(self) -> str:
        """One sentence of Markdown for the card of an export."""
        return f"Method `{type(self).__name__}`."

    def check(self, trainer: Any, rollout: Any, objective: Any) -> None:
        """ValueError for fields of the run that this method contradicts, before any work; gets the three configs. It
        must keep nothing: what trains is another instance."""

    def begin(self, beginning: Beginning) -> None:
        """Once in a run, before its first update; a resumed run has it in ``state``."""

    @property
    def sets_reference(self) -> bool:
        """Whether ``reference`` may give weights in this run."""
        return self.has("reference")

    def reference(self, policy: Callable[[], Weights], progress: float) -> Weights | None:
        """New weights for the policy that the KL term refers to, with kl_reference 'pretrained'; None: as it was. Every
        process is asked at the beginning of each update and must give the same. ``policy``: gives the trained policy's
        of now, which must not be changed. A checkpoint holds what was given last."""
        return None

    def behave(self, apart: Apart) -> None:
        """Change the weights that sample this update's trees; they are put back once the trees have grown. What was
        sampled counts as the trained policy's own: its logprobs are the old ones, no ratio corrects for it."""

    def starts(self, due: Sequence[Start], run_seed: int) -> Sequence[Start]:
        """What grows in the place of the starts that are due in this process: each may get a root, another start state
        (``Start.instead``), or a number of seed trajectories of its own, as many in all as those that are due. An
        update asks once or several times, as its budget allows, so random numbers must follow from ``run_seed``,
        which is another one for each method that has this hook, and the start alone."""
        return due

    def temperature(self, token: int, progress: float) -> float:
        """A factor, finite and above 0, on the temperature of the rollouts at token number ``token`` of an action.

        Fixed within an update: all of its logprobs, old, new and of a reference, and entropies are those of the
        distribution that sampled. Evaluations do without it. ``progress``: share of the run's updates that have been
        made, below 1."""
        return 1.0

    def stop(self, start_state: int, episode: Trajectory) -> bool:
        """Whether an episode of the update's trees, or a vine, that has not ended ends here, as a failure. Asked after
        each turn; its ``turns`` are its own ones so far, the last with what the world answered."""
        return False

    def wanted_rows(self, rows: int) -> int:
        """How many of the ``rows`` that a process has in each update ``replay`` wants; as many trees grow as fit into
        the others. Rows that stay blank for another reason (``max_env_steps``) are offered in any case."""
        return 0

    def again(self, grown: Grown) -> None:
        """A second growth: more episodes, from start states whose prompts say more (``Start.hint``), say. What shall be
        trained on is for ``replay`` to give. Every process is asked once an update."""

    def replay(self, room: int, progress: float) -> Sequence[tuple[Row, float | Sequence[float]]]:
        """Up to ``room`` earlier rows, and the advantage of each: one number for its own tokens, or one for each token
        of its completion. Every process is asked for those of all processes and must give the same ones.

        A row's ``logprobs`` are of the policy that sampled it. The mean of its clipped surrogate over all replayed own
        tokens joins the loss; nothing else sees the row: no set, critic, statistic, other hook or other term of the
        loss. ``progress``: share of the run's updates that have been made, below 1."""
        return ()

    def replayed(self, batch: Minibatch) -> torch.Tensor | None:
        """(b, C): the loss of tokens that this method replays, in the place of the clipped surrogate, whose part in the
        mean it takes; None: that surrogate. ``batch`` has the minibatch's replayed rows, ``mask_b_C`` those of this
        method, ``advantages_b_C`` what ``replay`` said."""
        return None

    def probe(self, seen: Seen) -> dict[str, torch.Tensor]:
        """name -> (b, ...) of a part of the rows, without gradients; ``Update.probed`` holds them put together. Names
        are the method's own."""
        return {}

    def reward(self, update: Update) -> torch.Tensor | float:
        """(B, T) float64, added to the rewards that sets and critic see; returns are logged without it."""
        return 0.0

    def turn_advantage(self, update: Update, advantages_B_T: torch.Tensor) -> torch.Tensor:
        """New advantages of turns, (B, T) float64, without blank rows."""
        return advantages_B_T

    def advantage(self, update: Update, advantages_B_C: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """New advantages of tokens, (B, C). Further (B, C) tensors, put into ``tensors``, reach the minibatches."""
        return advantages_B_C

    def learn(self, update: Update) -> None:
        """Look at an update that is complete: counts, statistics."""

    def weight(self, batch: Minibatch) -> torch.Tensor | float:
        """(b, C), 0 or above: a factor on the tokens' clipped surrogate."""
        return 1.0

    def loss(self, batch: Minibatch) -> torch.Tensor | float:
        """A sum over the minibatch's own tokens, added to the loss once divided by the tokens of the update."""
        return 0.0

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of the method, the same in every process; always the same names."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what ``state`` gave."""

    def revisit(self, snapshots_on: Callable[[Sequence[Walk]], list[tuple[bytes, ...]]]) -> None:
        """After ``restore``: make the snapshots anew that ``state`` must not hold (unpickling runs code).
        ``snapshots_on(ways)`` walks ways from the start state: of each the snapshots before its turns and after the
        last."""
