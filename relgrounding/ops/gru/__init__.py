"""Bidirectional GRU over sequences of any length."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding.ops._checks import check_lengths, check_shape
from relgrounding.ops._compiled import Opaque
from relgrounding.ops._dispatch import launch
from relgrounding.ops._registry import load_backends

load_backends(__name__, __path__)


def gru(
    x: Float[Tensor, "items length input_dim"],
    lengths: Int[Tensor, " items"],
    weights: Sequence[Tensor],
    backend: str = "auto",
) -> Float[Tensor, "items length output_dim"]:
    """Run a GRU over each sequence from its start and another one from its end.

        r_t, z_t = sigmoid(W_r x_t + b_r + U_r h_(t-1) + c_r),  sigmoid(W_z x_t + b_z + U_z h_(t-1) + c_z)
        n_t      = tanh(W_n x_t + b_n + r_t (U_n h_(t-1) + c_n))
        h_t      = (1 - z_t) n_t + z_t h_(t-1),   h_0 = 0

    and the result is y_t = [h_t of the forward direction; h_t of the backward direction]. The padding is never read.
    Gradients of gradients (`create_graph=True`) are those of "naive"; of "pytorch" on a GPU, cuDNN refuses them.

    Args:
        x: (B, L, I), padded at the end with anything.
        lengths: (B,) integers, real steps of each sequence, 1 to L.
        weights: as in `torch.nn.GRU`: W (3 H, I), U (3 H, H), b (3 H,), c (3 H,), each with the rows of r, z, n one
            below the other; then the four of the backward direction.
        backend: "auto", "naive" (step by step), "cpp" (on the CPU in float32 and float64, where there is a compiler),
            "packed" (all sequences together, likewise without a compiler) or "pytorch" (PyTorch's own, cuDNN on a GPU,
            the only one that runs under autocast).

    Returns:
        (B, L, 2 H), zeros at the padding.

    Raises:
        ValueError: a length outside 1 to L, shapes that do not fit each other, an unknown backend, or one that cannot
            run on these tensors.

    Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, EMNLP 2014, with the reset gate after
    the recurrent product, as in cuDNN.
    """
    units = weights[1].shape[1]
    shapes = (3 * units, x.shape[2]), (3 * units, units), (3 * units,), (3 * units,)
    for weight, shape in zip(weights, shapes * 2, strict=True):
        check_shape("weights", weight, shape)
    check_shape("lengths", lengths, x.shape[:1])
    check_lengths(lengths, x.shape[1], "sequence")
    if len(x) == 0:
        return x.new_zeros(0, x.shape[1], 2 * units)
    if torch.compiler.is_compiling():
        # As under autocast, the type of x decides.
        return _opaque(x, lengths, *(w.to(x.dtype) for w in weights), text=backend)[0]
    return launch("gru", [x, *weights], backend, lengths=lengths)


def _run(x: Tensor, lengths: Tensor, *weights_and_backend: Any) -> Tensor:
    *weights, backend = weights_and_backend
    return gru(x, lengths, weights, backend)


def _shapes(x: Tensor, lengths: Tensor, *weights_and_backend: Any) -> Tensor:
    return x.new_empty(*x.shape[:2], 2 * weights_and_backend[1].shape[1])


_opaque = Opaque(_run, _shapes)


__all__ = ["gru"]
