"""Reading files that may be damaged or untrusted: checked ids, values, HDF5, NumPy arrays and pickles."""

from relgrounding.io._errors import (
    BadAnnotation,
    BadFeatures,
    DataError,
    MissingFeatures,
    MissingFile,
    Problems,
    UnsafeFile,
)
from relgrounding.io._pickle import CharadesGlove, load_charades_glove, load_plain_pickle

__all__ = [
    "BadAnnotation",
    "BadFeatures",
    "CharadesGlove",
    "DataError",
    "MissingFeatures",
    "MissingFile",
    "Problems",
    "UnsafeFile",
    "load_charades_glove",
    "load_plain_pickle",
]
