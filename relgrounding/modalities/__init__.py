"""What depends on whether items are videos or images."""

from relgrounding.modalities._batches import (
    Batch,
    BatchSampler,
    ClipStore,
    ImageBatch,
    ImageCollator,
    OrderedBatches,
    RegionStore,
    VideoBatch,
    VideoCollator,
    make_loader,
)

__all__ = [
    "Batch",
    "BatchSampler",
    "ClipStore",
    "ImageBatch",
    "ImageCollator",
    "OrderedBatches",
    "RegionStore",
    "VideoBatch",
    "VideoCollator",
    "make_loader",
]
