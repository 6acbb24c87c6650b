"""Systems that are trained one after another and answer together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding._host import on_host, to_device
from relgrounding._settings import ConfigError
from relgrounding.models._system import System
from relgrounding.nn import pad_nodes
from relgrounding.nn._precision import widened

SMALLEST = 1e-6
"""Scores are kept this far from 0 and 1, so that their log-odds are finite."""


class Plan(NamedTuple):
    """What a committee is made of.

    Attributes:
        members: settings of each member; the first ones are those of the run.
        temperature: of the first member's posterior, above 0.
        earlier_weight: w, weight of what came before each member, from 0 to 1.
        ranked: maps a batch and the scores of the first member to what stands for them, from 0 to 1; None: the scores.
        first_alone: whether all members learn from the first one alone.
    """

    members: Sequence[Any]
    temperature: float = 1.0
    earlier_weight: float = 1.0
    ranked: Callable[[Any, Tensor], Tensor] | None = None
    first_alone: bool = False


class Committee(System):
    """Systems of one kind with different settings, each of which was trained on the posterior of those before it.

    With f_m the log-odds of the scores of member m, its posterior over the proposals of an item is

        p_0 = softmax(f_0 / T),   p_m = softmax(f_m)

    Member n learns from q_n, and n + 1 members answer with a_n:

        q_1 = p_0,   q_{n+1} proportional to q_n^w p_n
        a_0 = p_0,   a_n proportional to q_n p_n

    so that with w = 1/2 the third member learns from p_0^(1/2) p_1, and three members answer with p_0^(1/2) p_1 p_2.
    With `Plan.first_alone`, all members learn from p_0, and answer with the same a_n.

    The scores of a lone member are its own. Those of more are the softmax over an item's proposals of the weighted mean
    of the members' log-odds, which is log a_n divided by the sum of the weights: the order is that of a_n, and so is,
    but for the standardised scale, what a vote by log-odds compares.

    Args:
        members: in the order in which they are trained.
        plan: T, w, and what stands for the scores of the first member once there are others.
    """

    active: Tensor
    """Number of members that answer: those trained so far, and the one in training."""

    def __init__(self, members: Sequence[System], plan: Plan) -> None:
        super().__init__()
        self.members, self.plan = nn.ModuleList(members), plan
        self.modality = members[0].modality  # type: ignore[misc]
        self.register_buffer("active", torch.tensor(1))
        self._active = 1  # on the host, where reading it does not wait for the device

    @property
    def systems(self) -> list[System]:
        return list(self.members)  # type: ignore[arg-type]

    def begin(self, number: int) -> System:
        self.active.fill_(number + 1)
        self._active = number + 1
        for member in self.members[:number]:
            member.requires_grad_(False)
            member.zero_grad(set_to_none=True)
        return self.systems[number]

    @property
    def in_training(self) -> System:
        """The member in training, or the last one trained."""
        return self.systems[self._active - 1]

    def train(self, mode: bool = True) -> "Committee":
        """Set the mode of the members in training; those trained before remain in evaluation mode."""
        super().train(mode)
        for member in self.members[: self._active - 1]:
            member.eval()
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load the weights of a committee, or those of a system alone into the first member."""
        if "active" in state_dict:
            found = super().load_state_dict(state_dict, *args, **kwargs)
            self._active = int(self.active)
            return found
        return self.members[0].load_state_dict(state_dict, *args, **kwargs)

    def forward(self, batch: Any) -> Float[Tensor, " nodes"]:
        active = self._active
        if active == 1:
            return self.members[0](batch)
        weights = [*self._powers(active - 1), 1.0]
        return item_log_softmax(self._mean(batch, weights), batch.structure.batch_num_nodes).exp()

    @torch.no_grad()
    def target(self, batch: Any) -> Float[Tensor, " nodes"]:
        """Return the distribution q that the member in training learns from, over the proposals of each item."""
        weights = [1.0] if self.plan.first_alone else self._powers(self._active - 1)
        total = sum(self._scaled(weights))
        return item_log_softmax(total * self._mean(batch, weights), batch.structure.batch_num_nodes).exp()

    def _powers(self, count: int) -> list[float]:
        """Return the weights of the log-posteriors of so many members in the target of the next one."""
        return [self.plan.earlier_weight ** (count - 1 - number) for number in range(count)]

    def _scaled(self, weights: Sequence[float]) -> list[float]:
        return [weights[0] / self.plan.temperature, *weights[1:]]

    def _mean(self, batch: Any, weights: Sequence[float]) -> Float[Tensor, " nodes"]:
        """Return the mean of the members' log-odds, weighted so that log-posteriors have these weights."""
        scaled = self._scaled(weights)
        odds = [w * log_odds(self._scores(number, batch)) for number, w in enumerate(scaled) if w]
        return torch.stack(odds).sum(0) / sum(scaled)

    def _scores(self, number: int, batch: Any) -> Float[Tensor, " nodes"]:
        scores = self.members[number](batch)
        return scores if number or self.plan.ranked is None else self.plan.ranked(batch, scores)


def log_odds(scores: Float[Tensor, " nodes"]) -> Float[Tensor, " nodes"]:
    """Return log(k / (1 - k)) of scores from 0 to 1."""
    return torch.logit(widened(scores), SMALLEST)


def item_log_softmax(
    logits: Float[Tensor, " nodes"], batch_num_nodes: Int[Tensor, " items"]
) -> Float[Tensor, " nodes"]:
    """Return the logarithm of the softmax over the proposals of each item."""
    padded, mask = pad_nodes(widened(logits), batch_num_nodes, -torch.inf)
    slots = to_device(on_host(mask).flatten().nonzero().squeeze(1), logits.device)
    return padded.log_softmax(1).flatten().index_select(0, slots)


def first_member(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the first member of a committee, or those of a system alone."""
    prefix = "members.0."
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)} or dict(weights)


def shared_graph_options(system: type[System], members: Sequence[Any]) -> dict[str, Any]:
    """Return the keyword arguments with which the collator builds the graph of all members.

    Raises:
        ConfigError: two members read different graphs.
    """
    readers = [member for member in members if system.reads_graph(member)] or members[:1]
    options = system.graph_options(readers[0])
    for other in map(system.graph_options, readers[1:]):
        if other != options:
            key = next(key for key in {**options, **other} if options.get(key) != other.get(key))
            raise ConfigError(
                f"members of a committee share one graph, but {key} is {options.get(key)!r} for one and "
                f"{other.get(key)!r} for another; only members without edges may differ from the rest"
            )
    return options
