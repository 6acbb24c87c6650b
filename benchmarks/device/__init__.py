"""What a GPU does with these kernels, in under ten minutes: checks, times, waits; see `benchmarks.device.__main__`."""
