"""PyTorch's own GRU over packed sequences; cuDNN on a GPU."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from relgrounding.ops._registry import register_backend


@register_backend("gru", "pytorch", auto={"cpu": 10, "cuda": 10, "mps": 10}, own_autocast=True)
def gru_pytorch(
    x: Float[Tensor, "items length input_dim"], *weights: Tensor, lengths: Int[Tensor, " items"]
) -> Float[Tensor, "items length output_dim"]:
    """See `relgrounding.ops.gru`."""
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    first = x.new_zeros(2, len(x), weights[1].shape[1])
    # cuDNN keeps what a backward needs only in training.
    training = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights))
    steps, _ = torch.gru(packed.data, packed.batch_sizes, first, weights, True, 1, 0.0, training, True)
    encoded = PackedSequence(steps, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    return pad_packed_sequence(encoded, batch_first=True, total_length=x.shape[1])[0]
