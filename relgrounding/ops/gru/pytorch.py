"""PyTorch's own GRU over packed sequences; cuDNN on a GPU."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import on_host, to_device
from relgrounding.ops._registry import register_backend
from relgrounding.ops.gru.packed import pack


@register_backend("gru", "pytorch", auto={"cpu": 10, "cuda": 10, "mps": 10}, own_autocast=True)
def gru_pytorch(
    x: Float[Tensor, "items length input_dim"], *weights: Tensor, lengths: Int[Tensor, " items"]
) -> Float[Tensor, "items length output_dim"]:
    """See `relgrounding.ops.gru`."""
    # Not `pack_padded_sequence` and its inverse, which copy the order of the sequences to the device and back.
    packing = pack(on_host(lengths), x.shape[1])
    source, sizes = to_device(packing.source_N, x.device), torch.tensor(packing.sizes)
    rows = x.flatten(0, 1).index_select(0, source)
    first = x.new_zeros(2, len(x), weights[1].shape[1])
    # cuDNN keeps what a backward needs only in training.
    training = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights))
    steps, _ = torch.gru(rows, sizes, first, weights, True, 1, 0.0, training, True)
    out = steps.new_zeros(x.shape[0] * x.shape[1], steps.shape[1])
    return out.index_copy(0, source, steps).view(*x.shape[:2], -1)
