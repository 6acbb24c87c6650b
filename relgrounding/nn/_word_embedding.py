"""Word vectors, pretrained or trained from scratch."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class WordEmbedding(nn.Module):
    """Look words up in a table whose row 0 is padding (zeros) and whose row 1 all unknown words share.

    Pretrained vectors stay as they are, so that words of the test split keep their place beside those of the training
    split; the shared vector of unknown words is trained.

    Args:
        vectors: (words, dim) pretrained table of floats; rows 0 and 1 are not read.

    Raises:
        ValueError: another shape or type.
    """

    vectors: Tensor

    def __init__(self, vectors: Float[Tensor, "words dim"]) -> None:
        super().__init__()
        if vectors.dim() != 2 or not vectors.is_floating_point():
            given = f"{vectors.dtype} of the shape {tuple(vectors.shape)}"
            raise ValueError(f"WordEmbedding: vectors are {given}; give (words, dim) floats")
        self.dim = vectors.shape[1]
        self.register_buffer("vectors", vectors.clone())
        self.unknown = nn.Parameter(vectors[2:].mean(0) if len(vectors) > 2 else torch.zeros(self.dim))

    @property
    def num_embeddings(self) -> int:
        """Number of word ids."""
        return len(self.vectors)

    def forward(self, words: Int[Tensor, "items length"]) -> Float[Tensor, "items length dim"]:
        """Return the vector of each word id."""
        found = nn.functional.embedding(words, self.vectors)
        found = torch.where((words == 1).unsqueeze(-1), self.unknown, found)
        return found.masked_fill((words == 0).unsqueeze(-1), 0)


def trained_embedding(num_words: int, dim: int) -> nn.Embedding:
    """Return a table of word vectors trained from scratch: row 0 stays zero, the others start at N(0, 1)."""
    table = nn.Embedding(num_words, dim, padding_idx=0)
    with torch.no_grad():
        table.weight[1:].normal_()
    return table
