"""Times on a GPU: by events, with the L2 cache emptied before each call, and by replaying a CUDA graph."""

import statistics

import torch

from benchmarks.timing import Function, milliseconds

WARM_UP = 3


class Clock:
    """Median milliseconds of a function.

    Args:
        device: where it runs; on a CPU, calls are timed by the host, once.
        repeats: timed calls.
    """

    def __init__(self, device: torch.device, repeats: int = 20) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.repeats, self.warm_up = (repeats, WARM_UP) if self.cuda else (1, 0)

    def events(self, function: Function) -> float:
        """Device time of a call that finds none of its inputs in the L2 cache; gaps between its launches count."""
        for _ in range(self.warm_up):
            function()
        return statistics.median(milliseconds(function, self.device) for _ in range(self.repeats))

    def replay(self, function: Function, calls: int = 5) -> float:
        """Device time of a call without gaps between launches: `calls` of them in one CUDA graph, its inputs in L2.

        Raises:
            RuntimeError: the function cannot be captured.
        """
        if not self.cuda:
            return self.events(function)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                function()
        return self.events(graph.replay) / calls
