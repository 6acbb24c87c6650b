"""Bidirectional GRU over sequences of any length."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from relgrounding.ops import gru
from relgrounding.ops._checks import check_features

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class BiGRUEncoder(nn.Module):
    """Encode each step of a sequence from both directions.

        y_t = [GRU forward over x_1 ... x_t; GRU backward over x_L ... x_t]

    Padding is never read, and the backward GRU starts at a sequence's own last step: see `relgrounding.ops.gru`.
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
            TypeError: x is not a tensor.
            ValueError: a length outside 1 to L, or another width or type than the layer's.
        """
        weights = [getattr(self.gru, f"{name}_l0{direction}") for direction in ("", "_reverse") for name in _WEIGHTS]
        check_features(self, "x", x, "items, length", self.gru.input_size, weights[0].dtype)
        return gru(x, lengths, weights)
