"""Features of one's own videos and images with the pretrained models of torchvision (extra `extract`).

Nothing here imports torchvision or PyAV before an extractor is made.
"""

from relgrounding.features.extraction._boxes import FASTER_RCNN, RegionExtractor
from relgrounding.features.extraction._clips import CLIP_MODELS, ClipExtractor
from relgrounding.features.extraction._crops import CropExtractor
from relgrounding.features.extraction._errors import ExtractionError, MissingPackageError
from relgrounding.features.extraction._inputs import IMAGES, VIDEOS, find_inputs, with_boxes
from relgrounding.features.extraction._parts import Parts, extract_all
from relgrounding.features.extraction._shard import begin_shards, check_components, whats_left
from relgrounding.features.extraction._write import write_clips, write_regions

__all__ = [
    "CLIP_MODELS",
    "FASTER_RCNN",
    "IMAGES",
    "VIDEOS",
    "ClipExtractor",
    "CropExtractor",
    "ExtractionError",
    "MissingPackageError",
    "Parts",
    "RegionExtractor",
    "begin_shards",
    "check_components",
    "extract_all",
    "find_inputs",
    "whats_left",
    "with_boxes",
    "write_clips",
    "write_regions",
]
