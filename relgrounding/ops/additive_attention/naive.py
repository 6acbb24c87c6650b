"""All pairs at once: the reference of tests and benchmarks, in any float type."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import to_device
from relgrounding.ops._registry import register_backend


@register_backend("additive_attention", "naive")
def additive_attention_naive(
    a_NA: Float[Tensor, "nodes hidden_dim"],
    b_BLA: Float[Tensor, "items length hidden_dim"],
    w_A: Float[Tensor, " hidden_dim"],
    s_BLW: Float[Tensor, "items length word_dim"],
    lengths: Int[Tensor, " items"],
    counts: list[int],
) -> tuple[Float[Tensor, "nodes word_dim"], Float[Tensor, "nodes length"]]:
    """See `relgrounding.ops.additive_attention`; makes a (nodes, length, hidden_dim) tensor.

    The nodes are sorted by item, `counts` has their number in each.
    """
    item_N = torch.repeat_interleave(
        to_device(torch.tensor(counts, dtype=torch.int64), a_NA.device), output_size=len(a_NA)
    )
    logits_NL = torch.tanh(a_NA.unsqueeze(1) + b_BLA.index_select(0, item_N)) @ w_A
    padding_BL = torch.arange(s_BLW.shape[1], device=s_BLW.device) >= lengths.unsqueeze(1)
    gamma_NL = torch.softmax(logits_NL.masked_fill(padding_BL.index_select(0, item_N), -torch.inf), -1)
    return torch.bmm(gamma_NL.unsqueeze(1), s_BLW.index_select(0, item_N)).squeeze(1), gamma_NL
