"""What is counted as a wait for a GPU, where there is none."""

import pytest
import torch

from benchmarks.waits import PretendedGPU
from relgrounding._host import Numbers, on_host, to_device


@pytest.fixture
def gpu():
    with PretendedGPU() as gpu:
        yield gpu


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool((x > 1).any()),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.bincount(),
        lambda x: x.masked_select(x > 1),
        lambda x: torch.repeat_interleave(x, x),
        lambda x: x.new_tensor([1]),
        lambda x: torch.tensor([1], device=x.device),
        lambda x: torch.ones(2).to(x.device),
        lambda x: torch.ones(2).to(x.device, non_blocking=True),
        lambda x: torch.ones(2).pin_memory().to(x.device),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: on_host(x),
    ],
)
def test_waits_are_counted_where_they_are_asked_for(gpu, wait):
    x = torch.arange(3, device="cuda")
    gpu.reset()
    wait(x)
    assert gpu.waits >= 1
    assert all(line.startswith("tests/benchmarks/test_waits.py:") for line in gpu.lines)


def test_all_else_runs_without_a_wait_and_computes_the_same(gpu):
    weight, x = torch.randn(4, 3), torch.randn(5, 3)
    layer = torch.nn.Linear(3, 4, bias=False)
    layer.weight.data.copy_(weight)
    layer.to("cuda")
    given = to_device(x, "cuda")
    gpu.reset()
    out = layer(given)[1:].index_select(0, torch.arange(2, device="cuda")).relu()
    out.square().sum().backward()
    numbers = Numbers([out.sum(), out.max()])
    ragged = torch.repeat_interleave(torch.ones(2, dtype=torch.int64, device="cuda") * 2, output_size=4)
    assert (gpu.waits, out.device.type, ragged.device.type) == (0, "cuda", "cuda")
    weight.requires_grad_()
    expected = (x @ weight.T)[1:3].relu()
    expected.square().sum().backward()
    torch.testing.assert_close(out.cpu(), expected)
    torch.testing.assert_close(layer.weight.grad.cpu(), weight.grad)
    assert numbers.read() == pytest.approx([expected.sum().item(), expected.max().item()])


def test_tensors_of_two_devices_do_not_mix(gpu):
    with pytest.raises(RuntimeError, match="one tensor is on cuda:0, another one"):
        torch.ones(3, device="cuda") + torch.ones(3)


def test_the_host_knows_what_it_copied_until_it_is_changed(gpu):
    lengths = torch.tensor([3, 1])
    there = to_device(lengths, "cuda")
    gpu.reset()
    assert on_host(there) is lengths
    assert on_host(lengths) is lengths
    assert to_device(there, "cuda") is there
    assert gpu.waits == 0
    there.add_(1)
    assert on_host(there).tolist() == [4, 2]
    assert gpu.waits == 1
    floats = to_device(torch.ones(2), "cuda")
    assert on_host(floats).tolist() == [1, 1]  # which only integers are kept for
    assert gpu.waits == 2
