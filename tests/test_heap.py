"""What is freed stays with the process, unless the environment says otherwise."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import relgrounding._heap

FAULTS = """
import resource, runpy, sys
runpy.run_path(sys.argv[1])["keep_freed_memory"]()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**24
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(sum(faults() for _ in range(4)) // 4)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")
@pytest.mark.parametrize("settings", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}])
def test_no_new_pages_for_what_was_freed(settings):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    words = [sys.executable, "-c", FAULTS, str(Path(relgrounding._heap.__file__))]
    found = int(subprocess.run(words, env=clean | settings, capture_output=True, text=True, check=True).stdout)
    pages = 2**24 // os.sysconf("SC_PAGESIZE")
    assert found < pages // 100 if not settings else found >= pages // 10  # huge pages make fewer faults
