"""Videos and images: one file per modality holds everything that depends on it."""

from relgrounding.modalities._batches import (
    Batch,
    BatchSampler,
    Collator,
    OneQueryPerItem,
    OrderedBatches,
    identities,
    make_loader,
)
from relgrounding.modalities._blocks import BlockSampler, proposal_counter, training_batches
from relgrounding.modalities._inputs import Stores
from relgrounding.modalities._modality import MODALITIES, TOP, Modality, NoSettings, Scored, register_modality
from relgrounding.modalities._pieces import Cut, Piece, PieceSampler
from relgrounding.modalities.image import Image, ImageBatch, ImageCollator, RegionStore
from relgrounding.modalities.video import ClipStore, Video, VideoBatch, VideoCollator

__all__ = [
    "MODALITIES",
    "TOP",
    "Batch",
    "BatchSampler",
    "BlockSampler",
    "ClipStore",
    "Collator",
    "Cut",
    "Image",
    "ImageBatch",
    "ImageCollator",
    "Modality",
    "NoSettings",
    "OneQueryPerItem",
    "OrderedBatches",
    "Piece",
    "PieceSampler",
    "RegionStore",
    "Scored",
    "Stores",
    "Video",
    "VideoBatch",
    "VideoCollator",
    "identities",
    "make_loader",
    "proposal_counter",
    "register_modality",
    "training_batches",
]
