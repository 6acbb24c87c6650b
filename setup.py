"""Everything but the packages is declared in setup.cfg.

On a Python outside python_requires the metadata carries no dependencies: older releases of pip look for them first, and
fail at a torch or DGL that has no wheel there. Without them, the first line of any pip says which Python is needed.
"""

import configparser
import re
import sys

from setuptools import Distribution, find_packages, setup


class WithoutSetupCfg(Distribution):
    """Knows only what it is given."""

    def parse_config_files(self, *arguments, **options):  # noqa: D102 the name is setuptools'
        pass


settings = configparser.ConfigParser()
settings.read("setup.cfg", encoding="utf-8")
python_requires = settings["options"]["python_requires"]  # >=3.A,<3.B
first, after_last = (tuple(map(int, version)) for version in re.findall(r"(\d+)\.(\d+)", python_requires))

if first <= sys.version_info[:2] < after_last:
    # The configurations stand beside the package, where whoever has a clone finds them, and are installed in it.
    configs = {"relgrounding.configs": "configs", "relgrounding.configs.ablations": "configs/ablations"}
    setup(packages=[*find_packages(include=["relgrounding*"]), *configs], package_dir=configs)
else:
    setup(
        distclass=WithoutSetupCfg,
        name=settings["metadata"]["name"],
        version=settings["metadata"]["version"],
        python_requires=python_requires,
        extras_require={extra: [] for extra in settings["options.extras_require"]},
        packages=[],
    )
