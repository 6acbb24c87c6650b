"""Additive attention of proposals over the words of their item's sentence."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import on_host, to_device
from relgrounding.ops._checks import check_item, check_lengths, check_shape
from relgrounding.ops._choice import choose_backend
from relgrounding.ops._compiled import Opaque
from relgrounding.ops._dispatch import launch
from relgrounding.ops._registry import find_backend, load_backends

load_backends(__name__, __path__)


def additive_attention(
    proposals: Float[Tensor, "nodes hidden_dim"],
    words: Float[Tensor, "items length hidden_dim"],
    weight: Float[Tensor, " hidden_dim"],
    values: Float[Tensor, "items length value_dim"],
    word_lengths: Int[Tensor, " items"],
    item: Int[Tensor, " nodes"],
    backend: str = "auto",
) -> tuple[Float[Tensor, "nodes value_dim"], Float[Tensor, "nodes length"]]:
    """Mean of the values of a sentence's words, weighted for each proposal by additive attention.

        gamma_tn = softmax over the words n of  weight . tanh(proposals_t + words_n)
        out_t    = sum over the words of  gamma_tn values_n

    float16 and bfloat16 are computed in float32; under autocast, too, nothing is computed in a shorter type. Where
    proposals and values are both in bfloat16, "cpp" reads and writes them as they are. Gradients of gradients
    (`create_graph=True`) are those of "naive", which holds the tensor of all pairs.

    Args:
        proposals: (N, A), of all items.
        words: (B, L, A), one sentence per item, padded at the end with finite numbers, as are the values.
        weight: (A,).
        values: (B, L, V), whose type is that of the results.
        word_lengths: (B,) integers, real words of each sentence, 1 to L.
        item: (N,) integers, sentence of each proposal, in any order; fastest where it ascends.
        backend: "auto", "naive" (all pairs at once), "pieces" (of the pairs, one after another) or "cpp" (a compiled
            loop, on the CPU).

    Returns:
        out (N, V), and gamma (N, L), zero at the padding.

    Raises:
        ValueError: shapes that do not fit each other, a length outside 1 to L, an item that does not exist, an unknown
            backend, or one that cannot run on these tensors.

    Source: Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate, ICLR 2015,
    section 3.1 and appendix A.1.2.
    """
    sentences, width = tuple(words.shape[:2]), len(weight)
    check_shape("proposals", proposals, (len(item), width))
    check_shape("words", words, (*sentences, width))
    check_shape("values", values, (*sentences, values.shape[-1]))
    check_shape("word_lengths", word_lengths, sentences[:1])
    check_lengths(word_lengths, words.shape[1], "sentence")
    check_item(item, len(words))
    if torch.compiler.is_compiling():
        context, gamma = _opaque(proposals, words, weight, values, word_lengths, item, text=backend)
        return context, gamma
    item = on_host(item).long()  # differences of unsigned numbers are never negative
    counts = torch.bincount(item, minlength=len(words)).tolist()
    order = None if (item.diff() >= 0).all() else item.argsort(stable=True)
    if order is not None:
        proposals = proposals.index_select(0, to_device(order, proposals.device))
    # Half precision has neither the range of the exponentials nor the digits of the sums over words.
    wide = torch.promote_types(proposals.dtype, torch.float32)
    inputs = [x.to(wide) for x in (words, weight, values)]
    inputs.insert(0, proposals if _are_read(proposals, values, backend) else proposals.to(wide))
    lengths = to_device(word_lengths, words.device)
    results = launch("additive_attention", inputs, backend, lengths=lengths, counts=counts)
    context, gamma = (x.to(values.dtype) for x in results)
    if order is None:
        return context, gamma
    back = to_device(order.argsort(), context.device)
    return context.index_select(0, back), gamma.index_select(0, back)


def _are_read(proposals: Tensor, values: Tensor, backend: str) -> bool:
    """Whether a backend takes the proposals in a short type, and returns their contexts in it."""
    if proposals.dtype != values.dtype:
        return False
    name = choose_backend(backend, "additive_attention", None, proposals)
    return proposals.dtype in (find_backend("additive_attention", name).dtypes or ())


def _shapes(
    proposals: Tensor, words: Tensor, weight: Tensor, values: Tensor, lengths: Tensor, item: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    # Not `len`, whose number would be that of one batch for ever.
    nodes = proposals.shape[0]
    return values.new_empty(nodes, values.shape[2]), values.new_empty(nodes, values.shape[1])


_opaque = Opaque(additive_attention, _shapes)

__all__ = ["additive_attention"]
