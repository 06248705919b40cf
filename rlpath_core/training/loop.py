"""The core trainer: update steps, checkpoints, validation. Its keys: ``rlpath_core.training.options.MaceTraining``.

An interrupted run resumes from its checkpoint with the same batches, rates and, on a CPU, the same weights to the last
bit: the order of an epoch comes from (seed, epoch) alone, a checkpoint is only ever taken between update steps, and
nothing else in a step is random.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rlpath_core.backends.mace.acceleration import accelerate
from rlpath_core.backends.mace.build import DTYPES, state_of
from rlpath_core.backends.mace.bundle import write_bundle
from rlpath_core.backends.mace.model import interaction_energy
from rlpath_core.errors import FatalError, InputError
from rlpath_core.evaluation.metrics import error_metrics
from rlpath_core.progress import Progress
from rlpath_core.training.checkpoint import cpu_clone, load_checkpoint, save_checkpoint
from rlpath_core.training.dataset import TrainingSet, epoch_order, prefetched, split_by_edges, update_groups
from rlpath_core.training.distributed import ProcessGroup
from rlpath_core.training.inputs import Inputs
from rlpath_core.training.losses import POINT_LOSSES, EnergyForceLoss
from rlpath_core.training.not_finite import blame, not_finite
from rlpath_core.training.optim import MovingAverage, Schedule, choose_parameters, make_optimizer
from rlpath_core.training.options import MaceTraining, RunSpec
from rlpath_core.training.prepared import Prepared, TrainingPosition

LOGS_PER_EPOCH = 20


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Sums in a fixed order on the CPU, where two threads would otherwise add in whatever order they come."""
    settings: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(device == "cpu" or before)
    settings.fill_uninitialized_memory = before and filled  # a check of torch's own, 5 % of the time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = filled


class Trainer:
    """Trains what was prepared, as ``spec.train`` says."""

    def __init__(
        self,
        spec: RunSpec[MaceTraining],
        prepared: Prepared,
        *,
        device: str,
        progress: Progress | None = None,
        processes: ProcessGroup | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        """``inputs`` are the files that the run was made from: without them no change of data is noticed."""
        self.spec, self.train, self.architecture = spec, spec.train, prepared.architecture
        self.processes = processes or ProcessGroup(device=device)
        self.device, self.head, self.parent, self.progress = device, prepared.head, prepared.parent, progress
        self.dtype = DTYPES[prepared.dtype]
        net, architecture = prepared.net, prepared.architecture
        net, self.implementation = accelerate(net, device, self.dtype, training=True)
        self.net = net.to(device=device, dtype=self.dtype)
        self.train_set, self.n_replay, self.validation = prepared.train_set, prepared.n_replay, prepared.validation
        self.head_index = architecture.head_index(prepared.head)
        named = choose_parameters(self.net, self.train.freeze)
        self.parameters = [p for _, p in named]
        self.optimizer = make_optimizer(named, self.train)
        self.steps_per_epoch = len(self._groups(0))
        if self.steps_per_epoch == 0:
            raise InputError("drop_last leaves no update step: the data are fewer than batch_size x accum_steps")
        by_cycle = self.train.scheduler_step_unit == "cycle"
        units = self.steps_per_epoch * self.train.epochs // self.train.cycle_steps if by_cycle else self.train.epochs
        self.schedule = Schedule(self.optimizer, self.train, units)
        self.average = MovingAverage(self.parameters, self.train.ema_decay) if self.train.ema_decay else None
        self.loss = EnergyForceLoss(
            self.train.energy_weight,
            self.train.force_weight,
            POINT_LOSSES[self.train.energy_loss],
            POINT_LOSSES[self.train.force_loss],
            self.train.huber_delta,
            self.train.energy_loss_per != "configuration",
        )
        self.position = TrainingPosition()
        self.best_metrics: dict[str, float] = {}
        self.stop_requested = False
        self.inputs, self.e0s = inputs, self.train.e0s
        self.judged_before: dict[str, Any] | None = self.judged
        self.seconds_before = 0.0
        self.checkpoint_path = spec.run_dir / "checkpoints" / "checkpoint.pt"
        self.artifacts = spec.run_dir / "artifacts"
        self.log_path = spec.run_dir / "metrics.jsonl"

    # ----- order of the data

    def _groups(self, epoch: int) -> list[list[list[int]]]:
        """Update steps of an epoch, each a list of micro-batches over all processes."""
        n_new = len(self.train_set) - self.n_replay
        order = epoch_order(n_new, self.n_replay, self.spec.data.replay_ratio, self.train.seed, epoch)
        return update_groups(order, self.train.batch_size, self.train.accum_steps, self.train.drops_last)

    def _pieces(self, group: list[list[int]]) -> list[list[int]]:
        """This process's part of an update step, in pieces of at most ``max_edges`` edges."""
        shares = [self.processes.share(indices) for indices in group]
        return [piece for share in shares if share for piece in self._within_budget(share)]

    def _within_budget(self, indices: list[int], data: TrainingSet | None = None) -> list[list[int]]:
        if self.train.max_edges is None:
            return [indices]
        return split_by_edges(indices, (data or self.train_set).n_edges, self.train.max_edges)

    # ----- state

    @property
    def fixed(self) -> dict[str, Any]:
        """What a resumption must not change."""
        return {
            "batch_size": self.train.batch_size,
            "accum_steps": self.train.accum_steps,
            "drop_last": self.train.drops_last,
            "n_train": len(self.train_set) - self.n_replay,
            "n_replay": self.n_replay,
            "seed": self.train.seed,
            "optimizer": self.train.optimizer,
            "dtype": str(self.dtype).removeprefix("torch."),
            "ema": self.train.ema_decay is not None,
            "freeze": self.train.freeze,
            "replay_ratio": self.spec.data.replay_ratio if self.n_replay else None,
            "replay_head": self.spec.data.replay_head if self.n_replay else None,
            "data": None if self.inputs is None else self.inputs.trained_on,
        }

    @property
    def judged(self) -> dict[str, Any]:
        """What decides the validation loss of given weights: losses of another such are not compared."""
        if self.validation is None:
            return {}
        data = None if self.inputs is None else self.inputs.judged_on
        loss = self.loss
        return {
            "data": data,
            "n_structures": len(self.validation),
            "energy": [loss.energy_weight, self.train.energy_loss, loss.per_atom],
            "forces": [loss.force_weight, self.train.force_loss],
            "delta": loss.delta,
        }

    def save(self) -> None:
        if not all(torch.isfinite(parameter).all() for parameter in self.parameters):
            raise FatalError(
                f"{self.spec.run_dir}: weights are not finite after update step {self.position.global_step}; lower "
                f"train.lr. {self._what_is_kept}"
            )
        if not self.processes.is_main:
            return
        self.position.log_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
        save_checkpoint(
            self.checkpoint_path,
            {
                "fixed": self.fixed,
                "at": vars(self.position).copy(),
                "model": cpu_clone(dict(self.net.state_dict())),
                "optimizer": cpu_clone(self.optimizer.state_dict()),
                "schedule": dict(self.schedule.state),
                "average": None if self.average is None else cpu_clone(self.average.average),
                "best_metrics": dict(self.best_metrics),
                "architecture": self.architecture.model_dump(mode="json"),
                "head": self.head,
                "parent": self.parent,
                "judged": self.judged,
                "e0s": self.e0s,
            },
        )

    def load(self) -> None:
        """Go back to the last checkpoint, the log included."""
        state = load_checkpoint(self.checkpoint_path, self.fixed)
        self.net.load_state_dict(state["model"])
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # the run's, which a resumption may change
        if self.average is not None:
            self.average.average = [a.to(self.device) for a in state["average"]]
        self.best_metrics = dict(state["best_metrics"])
        self.position = TrainingPosition(**state["at"])
        by_cycle = self.train.scheduler_step_unit == "cycle"
        units = self.position.global_step // self.train.cycle_steps if by_cycle else self.position.epoch
        self.schedule.state = {**state["schedule"], "unit": units}
        self.judged_before, self.e0s = state.get("judged"), state.get("e0s")
        self.seconds_before = self.position.seconds
        self.processes.wait()
        if self.processes.is_main and self.log_path.exists() and self.log_path.stat().st_size > self.position.log_bytes:
            with open(self.log_path, "rb+") as stream:
                stream.truncate(self.position.log_bytes)

    def log(self, event: str, **values: Any) -> None:
        if not self.processes.is_main:
            return
        line = {"event": event, "epoch": self.position.epoch, "global_step": self.position.global_step, **values}
        line = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in line.items()}
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if self.progress is not None:
            self.progress(line)

    # ----- steps

    def _outputs(
        self, batch: dict[str, Any], training: bool, needs_forces: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        kind = self.device.partition(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=self.train.amp and kind == "cuda"):
            out = self.net(batch, training=training, compute_force=needs_forces)
        return interaction_energy(self.net, out), out["forces"] if needs_forces else None

    def _batch(self, indices: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.train_set.batch(indices, len(self.architecture.z_table), self.dtype, self.device, self.head_index)

    def update_step(
        self, micro_batches: Iterator[tuple[dict[str, Any], dict[str, Any]]], group: list[list[int]], n_pieces: int
    ) -> float:
        """One update from the ``n_pieces`` next micro-batches, this process's part of ``group``. Returns its loss."""
        n_graphs = sum(map(len, group))
        n_atoms = self.train_set.n_atoms([i for indices in group for i in indices])
        self.schedule.before_step(self.position.global_step)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(n_pieces):
            batch, target = next(micro_batches)
            energy, forces = self._outputs(batch, training=True, needs_forces=self.train.force_weight > 0)
            loss, _, _ = self.loss(energy, forces, target, n_graphs, n_atoms)
            loss.backward()
            total += loss.item()
        if self.processes.size > 1:
            self.processes.sum_gradients(self.parameters)
            total, stop = self.processes.sum(total, float(self.stop_requested))
            self.stop_requested = stop > 0  # whoever was asked to stop, all stop at the same step
        if not math.isfinite(total):
            raise self._not_finite(f"loss is {total}", group)
        limit = self.train.max_grad_norm
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, math.inf if limit is None else limit))
        if not math.isfinite(norm):
            raise self._not_finite(f"gradient has norm {norm}", group)
        self.optimizer.step()
        self.position.global_step += 1
        self.position.update += 1
        self.position.loss_sum += total
        self.position.loss_count += 1
        if self.average is not None:
            self.average.update(self.position.global_step)
        return total

    @property
    def _what_is_kept(self) -> str:
        if not self.checkpoint_path.is_file():
            return "There is no checkpoint yet"
        step = load_checkpoint(self.checkpoint_path)["at"]["global_step"]
        best = f"; the best weights are of step {self.position.best_step}" if self.position.best is not None else ""
        return f"The checkpoint of step {step} is kept{best}"

    def _not_finite(self, what: str, group: list[list[int]]) -> FatalError:
        """The error that ends training, with the structures of an update step that are to blame."""
        mine = [i for indices in group for i in self.processes.share(indices)]
        found = sorted(i for part in self.processes.gather(self._at_fault(mine)) for i in part)
        return FatalError(
            f"{self.spec.run_dir}: the {what} at update step {self.position.global_step + 1}, "
            f"{blame(self.train_set, found, sum(map(len, group)))}; lower train.lr or train.max_grad_norm, or look for "
            f"labels that are off. {self._what_is_kept}"
        )

    def _at_fault(self, indices: list[int]) -> list[int]:
        """Structures without a finite prediction, else without a finite loss or gradient. Training ends with this."""
        found: list[int] = []
        for piece in self._within_budget(indices) if indices else []:
            energy, forces = self._outputs(self._batch(piece)[0], training=False, needs_forces=True)
            arrays = [None if t is None else t.detach().cpu().numpy() for t in (energy, forces)]
            found += [piece[k] for k in not_finite(arrays[0], arrays[1], self.train_set.sizes[piece])]
        for i in [] if found else indices:
            batch, target = self._batch([i])
            self.optimizer.zero_grad(set_to_none=True)
            energy, forces = self._outputs(batch, training=True, needs_forces=self.train.force_weight > 0)
            loss = self.loss(energy, forces, target, 1, self.train_set.n_atoms([i]))[0]
            loss.backward()
            values = [loss, *(p.grad for p in self.parameters if p.grad is not None)]
            if not all(torch.isfinite(value).all() for value in values):
                found.append(i)
        return found

    def validate(self) -> None:
        """Measure, keep the weights where they are the best so far, and let plateau and early stop know."""
        self.position.pending_validation = False
        if self.average is not None:
            self.average.swap()
        try:
            loss: float | None = None
            metrics: dict[str, float] = {}
            if self.validation is not None:
                metrics, loss = self.measure(self.validation)
                self.log("validation", loss=loss, **metrics)
            if loss is None or self.position.best is None or loss < self.position.best:
                self.position.best, self.position.best_step = loss, self.position.global_step
                self.best_metrics = metrics
                self._write_artifacts()
        finally:
            if self.average is not None:
                self.average.swap()
        if loss is not None and self.position.best is not None:
            self.schedule.after_evaluation(loss)
            if self.train.early_stop_factor and loss > self.train.early_stop_factor * self.position.best:
                self.position.finished = "early_stop"

    def measure(self, data: TrainingSet) -> tuple[dict[str, float], float]:
        """Errors and loss on a set; FatalError naming the structures without a finite prediction."""
        energies, forces, loss = [], [], 0.0
        n_atoms = data.n_atoms(range(len(data)))
        size = max(self.train.batch_size, 16)
        ranges = [list(range(first, min(first + size, len(data)))) for first in range(0, len(data), size)]
        mine = [
            piece for r in self.processes.share(range(len(ranges))) for piece in self._within_budget(ranges[r], data)
        ]
        for indices in mine:
            batch, target = data.batch(
                indices, len(self.architecture.z_table), self.dtype, self.device, self.head_index
            )
            energy, force = self._outputs(batch, training=False, needs_forces=data.forces is not None)
            energy, force = energy.detach(), None if force is None else force.detach()
            loss += self.loss(energy, force, target, len(data), n_atoms)[0].item()
            energies.append(energy.double().cpu().numpy())
            if force is not None:
                forces.append(force.double().cpu().numpy())
        if self.processes.size > 1:
            (loss,) = self.processes.sum(loss)
            order, energies, forces = self._gathered(mine, energies, forces, data)
        else:
            order = [i for indices in mine for i in indices]
        errors = None if data.energies is None else np.concatenate(energies) - data.energies[order]
        predicted = reference = None
        if data.forces is not None:
            predicted, reference = np.concatenate(forces), np.concatenate([data.forces[i] for i in order])
        if not math.isfinite(loss):
            with np.errstate(over="ignore", invalid="ignore"):  # squares overflow where errors do not
                of_energies = None if errors is None else np.square(errors.astype(np.float32))
                of_forces = None if predicted is None else np.square((predicted - reference).astype(np.float32))
            found = [order[n] for n in not_finite(of_energies, of_forces, data.sizes[order])]
            raise FatalError(
                f"{self.spec.run_dir}: the validation at update step {self.position.global_step} is not finite "
                f"{blame(data, found, len(data))}. {self._what_is_kept}"
            )
        return error_metrics(errors, data.sizes[order], predicted, reference), loss

    def _gathered(
        self, mine: list[list[int]], energies: list[Any], forces: list[Any], data: TrainingSet
    ) -> tuple[list[int], list[Any], list[Any]]:
        """Everyone's predictions in the order of the data set, so that every process has the same metrics."""
        flat = [i for indices in mine for i in indices]
        per_structure = [np.zeros((0, 3)) for _ in flat]
        if forces:
            per_structure = np.split(np.concatenate(forces), np.cumsum(data.sizes[flat])[:-1])
        found = self.processes.gather((flat, np.concatenate(energies) if flat else np.zeros(0), per_structure))
        together = {
            i: (energy, force) for indices, es, fs in found for i, energy, force in zip(indices, es, fs, strict=True)
        }
        order = sorted(together)
        return order, [np.array([together[i][0] for i in order])], [together[i][1] for i in order]

    def _write_artifacts(self) -> None:
        if not self.processes.is_main:
            return
        write_bundle(
            self.artifacts,
            self.architecture,
            state_of(self.net, self.architecture),
            head=self.head,
            dtype=str(self.dtype).removeprefix("torch."),
            parent=self.parent,
            config={"task": self.spec.task, "global_step": self.position.global_step},
        )

    # ----- the run

    def run(self) -> str:
        """Train until done or ``stop_requested``. Returns why it ended: epochs, early_stop, max_seconds or stopped.

        A checkpoint is written after every ``save_every`` epochs, or every ``cycle_steps`` update steps, before the
        validation that belongs to it; and when asked to stop.
        """
        self.net.train()
        if self.position.pending_validation:
            self.validate()
        hidden = None if self.train.progress_bar == "auto" else not self.train.progress_bar
        with (
            deterministic(self.device),
            tqdm(
                total=self.train.epochs * self.steps_per_epoch,
                initial=self.position.global_step,
                desc=self.spec.run_dir.name,
                unit="step",
                disable=hidden if self.processes.is_main else True,
                mininterval=self.train.progress_mininterval,
            ) as bar,
        ):
            while not self.position.finished:
                if self.position.epoch >= self.train.epochs:
                    self.position.finished = "epochs"
                elif not self._epoch(bar):
                    return "stopped"
        return self.position.finished

    def _epoch(self, bar: Any) -> bool:
        """The rest of the current epoch; False when asked to stop."""
        train, position = self.train, self.position
        groups = self._groups(position.epoch)[position.update :]
        every = train.log_every or max(1, self.steps_per_epoch // LOGS_PER_EPOCH)
        pieces = [self._pieces(group) for group in groups]
        with_batches = prefetched([piece for step in pieces for piece in step], self._batch, train.num_workers)
        for group, step in zip(groups, pieces, strict=True):
            started = time.perf_counter()
            loss = self.update_step(with_batches, group, len(step))
            position.seconds += time.perf_counter() - started
            bar.update()
            if position.global_step % every == 0:
                self.log("step", loss=loss, lr=self.optimizer.param_groups[0]["lr"])
                bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
            if train.cycle_steps > 0 and position.global_step % train.cycle_steps == 0:
                self.schedule.end_unit("cycle")
                self._checkpoint_and_validate()
            late = position.seconds - self.seconds_before >= (train.max_seconds or math.inf)
            if train.max_seconds and self.processes.sum(float(late))[0] > 0:
                position.finished = "max_seconds"
            if self.stop_requested:
                self.save()
                return False
            if position.finished:
                break
        if position.update >= self.steps_per_epoch:
            self.log("epoch", loss=position.loss_sum / position.loss_count, seconds=round(position.seconds, 3))
            position.epoch, position.update, position.loss_sum, position.loss_count = position.epoch + 1, 0, 0.0, 0
            self.schedule.end_unit("epoch")
        last = position.epoch >= train.epochs or position.finished == "max_seconds"
        due = train.cycle_steps <= 0 and position.update == 0 and position.epoch % train.save_every == 0
        if last or due:
            self._checkpoint_and_validate()
        return True

    def _checkpoint_and_validate(self) -> None:
        self.position.pending_validation = True
        self.save()
        self.validate()
