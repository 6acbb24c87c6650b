"""The table of `prepare verify` for a configuration."""

from relgrounding.config import Config
from relgrounding.datasets._dataset import Check
from relgrounding.datasets._verify import verify
from relgrounding.modalities._facts import parts


def verify_config(config: Config) -> list[Check]:
    return verify(*parts(config))
