"""What is freed stays with the process, and lies in large pages, unless the environment says otherwise."""

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

LARGE = """
import re, resource, runpy, sys
if len(sys.argv) > 2:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
runpy.run_path(sys.argv[1])["keep_freed_memory"]()
len([b"x" * 2**20 for _ in range(64)])  # no MemoryError
mappings = re.split("^(?=[0-9a-f]+-)", open("/proc/self/smaps").read(), flags=re.MULTILINE)
flags = [re.search("^VmFlags:(.*)$", mapping, re.MULTILINE)[1].split() for mapping in mappings if "[heap]" in mapping]
print(any("hg" in of_one for of_one in flags))
"""


def _printed(script: str, settings: dict[str, str], *more: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    words = [sys.executable, "-c", script, str(Path(relgrounding._heap.__file__)), *more]
    return subprocess.run(words, env=clean | settings, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")
@pytest.mark.parametrize("settings", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}])
def test_no_new_pages_for_what_was_freed(settings):
    found = int(_printed(FAULTS, settings))
    pages = 2**24 // os.sysconf("SC_PAGESIZE")
    assert found < pages // 100 if not settings else found >= pages // 10  # huge pages make fewer faults


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or os.sysconf("SC_PAGESIZE") != 4096
    or not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="asked for with glibc and pages of 4 kB, of a system that has large ones",
)
def test_the_heap_asks_for_large_pages():
    assert _printed(LARGE, {}) == "True"
    assert _printed(LARGE, {"GLIBC_TUNABLES": ""}) == "False"
    assert _printed(LARGE, {}, str(2**28)) == "False"  # too few addresses: as before
