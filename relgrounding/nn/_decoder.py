"""Transformer decoder layers that also work without what they could attend to."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from relgrounding.ops._checks import check_features


class DecoderLayer(nn.Module):
    """A decoder layer with causal self-attention whose attention to a second sequence can be left out.

        x = LN(x + A_self(x)),   x = LN(x + A_cross(x; memory)) with a memory only,   x = LN(x + W_2 ReLU(W_1 x))

    Args:
        width: of the features.
        heads: number of attention heads; they divide the width.
        feed_forward: hidden units of the last part.
        dropout: of the output of each part, of attention weights and of hidden units.

    Raises:
        ValueError: heads that do not divide the width.

    Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}; choose one that is")
        self.own = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.other = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.inner, self.outer = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "items length width"],
        memory: Float[Tensor, "items memory width"] | None = None,
        there: Bool[Tensor, "items memory"] | None = None,
    ) -> Float[Tensor, "items length width"]:
        """Return the sequences after the layer.

        Args:
            x: (B, N, D). Padding belongs at the end, where no other position sees it.
            memory: (B, M, D) sequences that x attends to; None: it attends to itself alone.
            there: (B, M), False at padding of the memory, which holds finite numbers; None: there is none.

        Raises:
            TypeError: something else than tensors.
            ValueError: another width or type than the layer's.
        """
        for name, given in (("x", x), ("memory", memory)):
            if given is not None:
                check_features(self, name, given, "...", self.own.embed_dim, self.inner.weight.dtype)
        future = nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device, x.dtype)
        heard, _ = self.own(x, x, x, attn_mask=future, is_causal=True, need_weights=False)
        x = self.norms[0](x + self.dropout(heard))
        if memory is not None:
            hidden = None if there is None else ~there
            heard, _ = self.other(x, memory, memory, key_padding_mask=hidden, need_weights=False)
            x = self.norms[1](x + self.dropout(heard))
        return self.norms[2](x + self.dropout(self.outer(self.dropout(self.inner(x).relu()))))


class DecoderStack(nn.ModuleList):
    """Decoder layers one after another; arguments of `forward` as for `DecoderLayer`.

    Args:
        layers: their number.
        width: see `DecoderLayer`.
        heads: likewise.
        feed_forward: likewise.
        dropout: likewise.
    """

    def __init__(self, layers: int, width: int, heads: int, feed_forward: int, dropout: float = 0.0) -> None:
        super().__init__(DecoderLayer(width, heads, feed_forward, dropout) for _ in range(layers))

    def forward(
        self,
        x: Float[Tensor, "items length width"],
        memory: Float[Tensor, "items memory width"] | None = None,
        there: Bool[Tensor, "items memory"] | None = None,
    ) -> Float[Tensor, "items length width"]:
        """Return the sequences after all layers."""
        for layer in self:
            x = layer(x, memory, there)
        return x


def sinusoidal_positions(length: int, width: int) -> Float[Tensor, "length width"]:
    """Return the encodings of positions 0, 1, ...: pe[p, 2i] = sin(p / 10000^(2i/D)), pe[p, 2i + 1] = cos(...).

    Args:
        length: number of positions.
        width: D, even.

    Raises:
        ValueError: an odd width.

    >>> sinusoidal_positions(2, 2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    if width % 2:
        raise ValueError(f"width {width} is odd; every rate has a sine and a cosine")
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
