"""Memory bank of features, from which transformations draw replacements of other samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relgrounding._host import on_host, to_device


class MemoryBank:
    """Ring buffer of the latest rows on the training device, each with the id of its sample on the host.

    Args:
        size: number of rows.
        dim: width of a row.
        device: of the rows.
        dtype: of the rows.
    """

    def __init__(
        self, size: int, dim: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        if size < 2:
            raise ValueError(f"a bank of {size} rows cannot hold those of another sample; give it 2 or more")
        self.rows = torch.zeros(size, dim, device=device, dtype=dtype)
        self.owners = torch.zeros(size, dtype=torch.int64)
        self.filled, self.next = 0, 0

    def push(self, rows: Float[Tensor, "rows dim"], owners: Int[Tensor, " rows"]) -> None:
        """Overwrite the oldest rows; of more rows than the bank holds, keep the last. Rows are detached."""
        size = len(self.rows)
        rows, owners = rows.detach()[-size:], on_host(owners)[-size:]
        indices = (torch.arange(len(rows)) + self.next) % size
        self.rows[to_device(indices, self.rows.device)] = rows.to(self.rows.dtype)
        self.owners[indices] = owners
        self.next = (self.next + len(rows)) % size
        self.filled = min(size, self.filled + len(rows))

    @property
    def ready(self) -> bool:
        """Whether it holds rows of at least two samples, so that every sample finds a row of another."""
        owners = self.owners[: self.filled]
        return bool((owners != owners[:1]).any())

    def draw(self, owners: Int[Tensor, " rows"], generator: torch.Generator | None = None) -> Float[Tensor, "rows dim"]:
        """Return for each owner a row of another sample, drawn uniformly.

        Args:
            owners: id of the sample that each row must not come from.
            generator: source of the randomness, on the CPU.

        Raises:
            ValueError: the bank holds rows of fewer than two samples.
        """
        if not self.ready:
            raise ValueError("the bank holds rows of fewer than two samples; push more before drawing")
        owners = on_host(owners)
        tries = torch.randint(self.filled, (4, len(owners)), generator=generator)
        allowed = self.owners[tries] != owners
        indices = tries.gather(0, allowed.int().argmax(0, keepdim=True)).squeeze(0)
        left = (~allowed.any(0)).nonzero().squeeze(1)
        if len(left):
            others = self.owners[: self.filled] != owners[left].unsqueeze(1)
            indices[left] = others.double().multinomial(1, generator=generator).squeeze(1)
        return self.rows[to_device(indices, self.rows.device)]

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the state for a checkpoint."""
        return {"rows": self.rows, "owners": self.owners, "filled": self.filled, "next": self.next}

    def load_state_dict(self, state: dict) -> None:
        """Restore the state from a checkpoint.

        Raises:
            ValueError: the bank has another size.
        """
        if state["rows"].shape != self.rows.shape:
            raise ValueError(
                f"the checkpoint's bank is {tuple(state['rows'].shape)}, this one {tuple(self.rows.shape)}; "
                "resume with the run's own ccl.bank_size"
            )
        self.rows.copy_(state["rows"])
        self.owners.copy_(state["owners"])
        self.filled, self.next = state["filled"], state["next"]


def deal_rows(states: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the states of `count` banks that share the latest rows of other banks of their size, in turn.

    Args:
        states: `MemoryBank.state_dict` of each of the others.
        count: number of banks.
    """
    size = len(states[0]["rows"])
    first = [torch.arange(state["filled"]) + state["next"] - state["filled"] for state in states]
    rows, owners = (
        torch.cat([state[name][at % size] for state, at in zip(states, first, strict=True)])
        for name in ("rows", "owners")
    )
    # By age, so that each bank keeps the latest rows, and its oldest are overwritten first.
    age = torch.cat([torch.arange(state["filled"]).flip(0) for state in states])
    order = age.argsort(descending=True, stable=True)[-size * count :]
    dealt = []
    for number in range(count):
        bank = MemoryBank(size, rows.shape[1], dtype=rows.dtype)
        bank.push(rows[order[number::count]], owners[order[number::count]])
        dealt.append(bank.state_dict())
    return dealt
