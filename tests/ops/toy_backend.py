"""A backend from outside the package, as `docs/extending.md` has it: the grid of tests runs on it, too.

A plugin of pytest, loaded with ``-p tests.ops.toy_backend``; where TOY_BACKEND is "wrong", it forgets the edges' gates.
"""

import os

import torch

from relgrounding.ops import register_backend


@register_backend("gated_sum", "toy", dtypes=[torch.float32, torch.float64], widen_half=True)
def gated_sum_toy(structure, feat, gate, gate_bias, type_bias):
    """One type after another, each as a matrix of gates."""
    out = torch.zeros_like(feat)
    for r in range(structure.num_types):
        edges = structure.etype == r
        count = feat.new_zeros(len(feat), len(feat))
        pairs = structure.destinations[edges], structure.indices[edges]
        count = count.index_put(pairs, feat.new_ones(len(pairs[0])), accumulate=True)
        opened = torch.sigmoid(gate + gate_bias[r]) if os.environ.get("TOY_BACKEND") != "wrong" else gate * 0 + 1
        out = out + (count * opened) @ (feat + type_bias[r])
    return out
