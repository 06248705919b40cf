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
class Team:
    """The processes of this run; one process is a team of one, for which nothing is exchanged."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, indices: Sequence[int]) -> list[int]:
        """This process's part of a micro-batch; may be empty."""
        return list(indices[self.rank :: self.size])

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the team, in one exchange."""
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
        """Each value summed over the team, in float64."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        found: list[float] = together.tolist()
        return found

    def gather(self, value: Any) -> list[Any]:
        """The team's values, in the order of ranks, on every process. For arrays of our own making, never a file's."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


def asked_for() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def team(device: str) -> Iterator[Team]:
    """The team that torchrun started, or a team of one. ``device`` is resolved: cpu, cuda or cuda:N.

    Under torchrun each process takes the GPU of its local rank.
    """
    if not asked_for():
        yield Team(device=device)
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
