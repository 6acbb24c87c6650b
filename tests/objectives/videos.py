"""A batch of videos with a sentence each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from relgrounding.graphs import GraphStructure, temporal_structure
from relgrounding.modalities import VideoBatch


def video_batch(clips: Sequence[Tensor], spans: Sequence[Tensor]) -> VideoBatch:
    """Random sentences of four words about videos of (clips, dim) features, with spans of clips as their moments."""
    items = len(clips)
    return VideoBatch(
        structure=GraphStructure.batch([temporal_structure(s) for s in spans]),
        words=torch.randint(1, 9, (items, 4)),
        word_lengths=torch.full((items,), 4),
        importance=torch.ones(items, 4),
        item=torch.arange(items),
        text=torch.arange(items),
        group=torch.full((items,), -1),
        block=torch.full((items,), -1),
        queries=list(range(items)),
        clips=torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True),
        clip_lengths=torch.tensor([len(c) for c in clips]),
        spans=torch.cat(list(spans)),
    )
