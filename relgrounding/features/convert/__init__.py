"""Converters from the formats that features are published in."""

from relgrounding.features.convert._convert import FORMATS, Converted, convert_features, detect_format, open_source

__all__ = ["FORMATS", "Converted", "convert_features", "detect_format", "open_source"]
