"""Data parallel training: ``torchrun --nproc-per-node N -m -- flows.run --config run.yaml``.

Every process has the whole data set and the same order; of each micro-batch it computes every N-th structure, and
gradients are summed. Losses are sums over the whole update divided by its counts, so N processes give the update of
one. NCCL on GPUs, gloo on CPUs. Process 0 alone writes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of this run. A single process exchanges nothing."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, indices: Sequence[int]) -> list[int]:
        """The part of a micro-batch that this process computes; it may be empty."""
        return list(indices[self.rank :: self.size])

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes, in one exchange."""
        if self.size == 1:
            return
        for parameter in parameters:  # a process without structures has none
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.reshape(gradient.shape))

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the processes, in float64."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        found: list[float] = together.tolist()
        return found

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, on every process. Only for arrays made here: it pickles."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Wait until all processes have arrived."""
        if self.size > 1:
            dist.barrier()


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """The processes that torchrun started, or this one alone. ``device`` is resolved: cpu, cuda or cuda:N.

    Under torchrun each process takes the GPU of its local rank.
    """
    if not launched_by_torchrun():
        yield ProcessGroup(device=device)
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
