"""One piece of the pairs after another, forward and backward, on any device.

Letters: N proposals of all items, T of one item; b items of a piece, B of the batch; L words; A width of the
comparison, W of a word.

The tensor of all pairs, tanh(a_t + b_n), is the largest of a whole model, so it only ever exists in pieces that fit the
cache; the backward makes each piece again. With r = 1 / (1 + e^{2 (a + b)}), tanh(a + b) = 1 - 2 r, and two things
follow:

- the softmax does not see what all words share, so the logits are -2 w . r; the derivative of tanh is 4 r (1 - r);
- e^{2 (a + b)} = e^{2 a} e^{2 b}: a pair needs a product and a division, not a transcendental function of its own. That
  holds while no factor leaves the range of its type; where one would, r = sigmoid(-2 (a + b)) is computed as it stands.

"""

import math
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import on_host, to_device
from relgrounding.ops._backward import backward_pass, keep, kept
from relgrounding.ops._registry import register_backend
from relgrounding.ops.additive_attention.naive import additive_attention_naive

PIECE_ON_CPU = 2**20
"""Largest piece of pairs, in numbers: 4 MB in float32, which stays in the cache that the cores share."""
PIECE_ELSEWHERE = 2**26
"""The same on a GPU, where few large pieces are better."""
WASTE_ON_CPU = 1.25
"""Items share a piece while padding multiplies its size by no more than this."""
WASTE_ELSEWHERE = 4.0


class Piece(NamedTuple):
    """Proposals that are attended together: whole items of similar size, or a part of one item."""

    nodes: slice
    items: slice
    length: int
    """Words of the longest sentence."""
    counts: list[int]


class Pieces:
    """How a batch is cut.

    Args:
        counts: proposals of each item, which stand one item after another.
        lengths: words of each item's sentence.
        width: A.
        device: where the tensors are.
    """

    def __init__(self, counts: list[int], lengths: list[int], width: int, device: torch.device) -> None:
        on_cpu = device.type == "cpu"
        self.device, self.counts = device, counts
        self._lengths, self._width = lengths, width
        self.most = PIECE_ON_CPU if on_cpu else PIECE_ELSEWHERE
        self.waste = WASTE_ON_CPU if on_cpu else WASTE_ELSEWHERE

    @cached_property
    def pieces(self) -> list[Piece]:
        """One after another; made when they are needed."""
        return list(self._cut(self.counts, self._lengths, self._width))

    def _cut(self, counts: list[int], lengths: list[int], width: int) -> Iterator[Piece]:
        starts = [0, *accumulate(counts)]
        first = 0
        while first < len(counts):
            last, longest, length = first + 1, counts[first], lengths[first]
            while last < len(counts):
                grown, longer = max(longest, counts[last]), max(length, lengths[last])
                rows = (last + 1 - first) * grown
                nodes = starts[last + 1] - starts[first]
                if rows * longer * width > self.most or rows > self.waste * nodes:
                    break
                last, longest, length = last + 1, grown, longer
            if last - first > 1 and longest:
                yield Piece(slice(starts[first], starts[last]), slice(first, last), length, counts[first:last])
            elif longest:
                step = max(1, self.most // max(1, length * width))
                for start in range(starts[first], starts[last], step):
                    stop = min(start + step, starts[last])
                    yield Piece(slice(start, stop), slice(first, last), length, [stop - start])
            first = last

    def __iter__(self) -> Iterator[tuple[Piece, Tensor | None]]:
        """Each piece and where its proposals stand among (items x longest) places; None: in every one of them."""
        for piece in self.pieces:
            longest = max(piece.counts)
            if min(piece.counts) == longest:
                yield piece, None
                continue
            places = [i * longest + t for i, count in enumerate(piece.counts) for t in range(count)]
            yield piece, to_device(torch.tensor(places), self.device)


def _pad(x: Tensor, piece: Piece, places: Tensor | None) -> Tensor:
    """(items, longest, dim) of a piece of x (N, dim); zeros where there is no proposal."""
    items, longest = len(piece.counts), max(piece.counts)
    rows = x[piece.nodes]
    if places is not None:
        rows = rows.new_zeros(items * longest, rows.shape[1]).index_copy_(0, places, rows)
    return rows.view(items, longest, -1)


def _unpad(x: Tensor, places: Tensor | None) -> Tensor:
    """(nodes, dim) of x (items, longest, dim)."""
    rows = x.flatten(0, 1)
    return rows if places is None else rows.index_select(0, places)


@register_backend("additive_attention", "pieces", auto={"cpu": 10, "cuda": 10, "mps": 10})
def additive_attention_pieces(
    a_NA: Float[Tensor, "nodes hidden_dim"],
    b_BLA: Float[Tensor, "items length hidden_dim"],
    w_A: Float[Tensor, " hidden_dim"],
    s_BLW: Float[Tensor, "items length word_dim"],
    lengths: Int[Tensor, " items"],
    counts: list[int],
) -> tuple[Float[Tensor, "nodes word_dim"], Float[Tensor, "nodes length"]]:
    """See `relgrounding.ops.additive_attention`."""
    return _AdditiveAttention.apply(a_NA, b_BLA, w_A, s_BLW, lengths, counts)


class _AdditiveAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a_NA: Tensor, b_BLA: Tensor, w_A: Tensor, s_BLW: Tensor, lengths_B: Tensor, counts: list[int]
    ) -> tuple[Tensor, Tensor]:
        arguments = a_NA, b_BLA, w_A, s_BLW, lengths_B, counts
        ctx.pieces = pieces = Pieces(counts, on_host(lengths_B).tolist(), len(w_A), a_NA.device)
        a_NA, b_BLA, factored = _doubled(a_NA, b_BLA)
        c_NW = s_BLW.new_empty(len(a_NA), s_BLW.shape[2])
        gamma_NL = s_BLW.new_zeros(len(a_NA), s_BLW.shape[1])
        keep(ctx, arguments, gamma_NL)
        ctx.set_materialize_grads(False)
        padding_BL = torch.arange(s_BLW.shape[1], device=s_BLW.device) >= lengths_B.unsqueeze(1)
        minus_2w_A1 = (-2 * w_A).unsqueeze(1)
        buffer = a_NA.new_empty(0)
        for piece, places in pieces:
            words = piece.items, slice(piece.length)
            r_bTLA = _r(_pad(a_NA, piece, places), b_BLA[words], factored, buffer)
            logits = (r_bTLA.flatten(0, 2) @ minus_2w_A1).view(r_bTLA.shape[:3])
            buffer = r_bTLA.view(-1)
            if len(piece.counts) > 1:
                logits.masked_fill_(padding_BL[words].unsqueeze(1), -torch.inf)
            gamma = torch.softmax(logits, -1)
            c_NW[piece.nodes] = _unpad(torch.bmm(gamma, s_BLW[words]), places)
            gamma_NL[piece.nodes, : piece.length] = _unpad(gamma, places)
        return c_NW, gamma_NL

    @staticmethod
    @backward_pass(additive_attention_naive)
    def backward(ctx: Any, dc_NW: Tensor | None, dgamma_NL: Tensor | None) -> tuple[Tensor | None, ...]:
        (a_NA, b_BLA, w_A, s_BLW, _, _), (gamma_NL,) = kept(ctx)
        a_NA, b_BLA, factored = _doubled(a_NA, b_BLA)
        # Contiguous, which `zeros_like` need not be.
        da_NA, db_BLA, ds_BLW = a_NA.new_empty(a_NA.shape), b_BLA.new_zeros(b_BLA.shape), s_BLW.new_zeros(s_BLW.shape)
        dw_A1 = w_A.new_zeros(len(w_A), 1)
        buffer = a_NA.new_empty(0)
        for piece, places in ctx.pieces:
            words = piece.items, slice(piece.length)
            gamma_bTL = _pad(gamma_NL[:, : piece.length], piece, places)
            above_bTL = torch.zeros_like(gamma_bTL)
            if dgamma_NL is not None:
                above_bTL = above_bTL + _pad(dgamma_NL[:, : piece.length], piece, places)
            if dc_NW is not None:
                dc_bTW = _pad(dc_NW, piece, places)
                ds_BLW[words].baddbmm_(gamma_bTL.mT, dc_bTW)
                above_bTL = torch.baddbmm(above_bTL, dc_bTW, s_BLW[words].mT)
            delta_bTL = gamma_bTL * (above_bTL - (gamma_bTL * above_bTL).sum(-1, keepdim=True))
            r_bTLA = _r(_pad(a_NA, piece, places), b_BLA[words], factored, buffer)
            buffer = r_bTLA.view(-1)
            dw_A1.addmm_(r_bTLA.flatten(0, 2).T, delta_bTL.flatten().unsqueeze(1), alpha=-2)
            q_bTLA = torch.addcmul(r_bTLA, r_bTLA, r_bTLA, value=-1, out=r_bTLA)
            da_TA = torch.bmm(delta_bTL.flatten(0, 1).unsqueeze(1), q_bTLA.flatten(0, 1)).squeeze(1)
            da_NA[piece.nodes] = da_TA if places is None else da_TA.index_select(0, places)
            db_BLA[words] += _over_proposals(delta_bTL, q_bTLA)
        slope_A = 4 * w_A
        return da_NA.mul_(slope_A), db_BLA.mul_(slope_A), dw_A1.squeeze(1), ds_BLW, None, None


def _doubled(a_NA: Tensor, b_BLA: Tensor) -> tuple[Tensor, Tensor, bool]:
    """2 a and 2 b, or their exponentials, and which."""
    factored = factors_fit(a_NA, b_BLA)
    a_NA, b_BLA = 2 * a_NA, 2 * b_BLA
    return (a_NA.exp_(), b_BLA.exp_(), True) if factored else (a_NA, b_BLA, False)


def factors_fit(a_NA: Tensor, b_BLA: Tensor) -> bool:
    """Whether e^{2 a}, e^{2 b} and their product are all in the range of their type."""
    if a_NA.device.type != "cpu" or not a_NA.numel():
        return False  # elsewhere the exponential is free beside the memory traffic, and asking costs a synchronisation
    limit = 0.45 * math.log(torch.finfo(a_NA.dtype).max)
    return all(2 * x.abs().max().item() < limit for x in (a_NA, b_BLA))


def _r(a_bTA: Tensor, b_bLA: Tensor, factored: bool, buffer: Tensor) -> Tensor:
    """r (b, T, L, A) from the doubled arguments, or their exponentials, in the buffer where it is large enough."""
    shape = a_bTA.shape[0], a_bTA.shape[1], b_bLA.shape[1], b_bLA.shape[2]
    size = shape[0] * shape[1] * shape[2] * shape[3]
    out = (buffer[:size] if len(buffer) >= size else a_bTA.new_empty(size)).view(shape)
    a, b = a_bTA.unsqueeze(2), b_bLA.unsqueeze(1)
    if factored:
        return torch.addcmul(a.new_ones(()), a, b, out=out).reciprocal_()
    return torch.add(a, b, out=out).neg_().sigmoid_()


def _over_proposals(delta_bTL: Tensor, q_bTLA: Tensor) -> Tensor:
    """sum over t of delta_tn q_tna, (b, L, A)."""
    if len(q_bTLA) == 1:
        return torch.bmm(delta_bTL[0].T.unsqueeze(1), q_bTLA[0].transpose(0, 1)).transpose(0, 1)
    return q_bTLA.mul_(delta_bTL.unsqueeze(-1)).sum(1)
