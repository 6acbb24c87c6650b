"""Bidirectional GRU over sequences of any length."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from relgrounding.nn._checks import check_lengths
from relgrounding.nn._gru import bidirectional_gru


class BiGRUEncoder(nn.Module):
    """Encode each step of a sequence from both directions.

        y_t = [GRU forward over x_1 ... x_t; GRU backward over x_L ... x_t]

    Sequences are packed: padding is never read, and the backward GRU starts at a sequence's own last step. On a CPU the
    recurrence is `relgrounding.nn._gru`, elsewhere PyTorch's, of which cuDNN refuses gradients of gradients.
    Input weights start Xavier-uniform and recurrent weights orthogonal, gate by gate; biases start at zero.

    Args:
        input_dim: width of a step.
        hidden_dim: width of each direction; the output has twice as much.
    """

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for name, parameter in self.gru.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                continue
            draw = nn.init.xavier_uniform_ if name.startswith("weight_ih") else nn.init.orthogonal_
            for gate in parameter.chunk(3):
                draw(gate)

    def forward(
        self, x: Float[Tensor, "items length input_dim"], lengths: Int[Tensor, " items"]
    ) -> Float[Tensor, "items length output_dim"]:
        """Encode a padded batch.

        Args:
            x: (B, L, input_dim), padded at the end with anything.
            lengths: (B,) real steps of each sequence, 1 to L.

        Returns:
            (B, L, 2 * hidden_dim), zeros at the padding.

        Raises:
            ValueError: a length outside 1 to L.
        """
        check_lengths(lengths, x.shape[1], "sequence")
        if len(lengths) == 0:
            return x.new_zeros(0, x.shape[1], 2 * self.gru.hidden_size)
        if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
            return bidirectional_gru(x, lengths, self.gru)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        encoded, _ = self.gru(packed)
        return pad_packed_sequence(encoded, batch_first=True, total_length=x.shape[1])[0]
