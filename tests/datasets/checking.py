"""The table of `prepare verify` for a configuration."""

from relgrounding.config import Config
from relgrounding.datasets._dataset import Check
from relgrounding.datasets._verify import verify


def verify_config(config: Config) -> list[Check]:
    return verify(config.dataset, config.modality)
