"""Print versions, CUDA availability, and which message-passing kernels can run here.

    relgrounding env

`python -m relgrounding.env` does the same.
"""

import argparse

from relgrounding._printing import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes: nothing."""


def run(arguments: argparse.Namespace) -> None:
    """Print the report."""
    from relgrounding.env import report

    show(report())
