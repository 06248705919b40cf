"""Around FairChem's own training loop, which is used unchanged: what makes its runs end and go on without a trace.

An interrupted run goes on with the same batches, rates, random numbers and, on a CPU, the same weights to the last bit.
FairChem itself resumes in mid-epoch by step, but writes its checkpoint in place, before the step's validation and
before the scheduler moves, and without the state of the random numbers that dropout and EquiformerV2's edge frames are
drawn from. So: checkpoints are written beside and renamed; they also hold the random state, running averages of the
log and whether the step was over; and what was left of a step is done first.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.common.logger import Logger
from fairchem.core.common.registry import registry
from fairchem.core.modules.exponential_moving_average import ExponentialMovingAverage
from fairchem.core.modules.normalization.normalizer import create_normalizer
from fairchem.core.trainers import OCPTrainer, base_trainer

from rlpath_core.backends.fairchem.bundle import export_checkpoint
from rlpath_core.backends.tensors import load_tensors, save_tensors
from rlpath_core.errors import FatalError, InputError
from rlpath_core.training.checkpoint import same_settings
from rlpath_core.training.fairchem.config import BEST, CHECKPOINT, OURS
from rlpath_core.training.fairchem.rates import Rates
from rlpath_core.training.inputs import Inputs
from rlpath_core.training.not_finite import not_finite

SCHEMA_VERSION = 1
ADVICE = "lower optim.lr_initial or optim.clip_grad_norm, or look for labels that are off"
log = logging.getLogger("rlpath.training")


class Stopped(Exception):
    """The run was asked to end, and can go on from its checkpoint."""


class TimeUp(Exception):
    """``train.max_seconds`` are over."""


@dataclass
class Job:
    """What the worker and the trainer share. ``report`` takes lines of the log, and what is for the parent alone."""

    run_dir: Path
    backend: str
    task: str
    parent: str | None
    report: Callable[..., None]
    max_seconds: float | None = None
    began: str = "train"
    """The task that the run began with."""
    inputs: Inputs | None = None
    transforms: str = ""
    """Normalisers and references as the configuration asks for them."""
    event: str = "validation"
    """What a line of the log about a validation set is called."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set to end after the update step, with a checkpoint."""

    @property
    def log_path(self) -> Path:
        return self.run_dir / "metrics.jsonl"


_job: Job | None = None


def job() -> Job:
    assert _job is not None
    return _job


def _number(value: Any) -> float:
    return float(value.item() if isinstance(value, torch.Tensor) else value)


@registry.register_logger("rlpath")
class MetricsLog(Logger):
    """metrics.jsonl: a line every ``print_every`` update steps, averaged over them, and one for every validation."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.every = int(config["cmd"]["print_every"])
        self.also: dict[str, float] = {}
        self.scaled = bool(config.get("amp"))  # a gradient that overflows is then scaled down, and its step left out

    def log(self, update_dict: dict[str, Any], step: int, split: str = "") -> None:
        # a batch without free atoms has no mean over them, and JSON has no infinity
        values = {name: n for name, value in update_dict.items() if math.isfinite(n := _number(value))}
        if "grad_norm" in update_dict and "grad_norm" not in values and not self.scaled:
            raise FatalError(f"{job().run_dir}: the gradient is not finite at update step {step}; {ADVICE}")
        if split == "train" and "loss" not in values:
            self.also |= values
            return
        if split == "train" and step % self.every != 0:
            return
        epoch = values.pop("epoch", 0.0)
        values.pop("step", None)
        event = job().event if split == "val" else "step"
        line = {"event": event, "epoch": epoch, "global_step": step, **values, **(self.also if event == "step" else {})}
        with open(job().log_path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        job().report(**line)

    def watch(self, model: Any, log_freq: int = 1000) -> None: ...
    def log_plots(self, plots: Any, caption: str = "") -> None: ...
    def log_summary(self, summary_dict: dict[str, Any]) -> None: ...
    def log_artifact(self, name: str, type: str, file_location: str) -> None: ...
    def mark_preempting(self) -> None: ...


class Steps:
    """A data loader that tells the trainer when a step is over: at the next one, and at the start of an epoch."""

    def __init__(self, loader: Any, trainer: Resumable) -> None:
        self.loader, self.trainer = loader, trainer

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        trainer = self.trainer
        trainer.between_steps(trainer.step)
        self.loader.dataset.dataset.set_epoch(trainer.train_sampler.sampler.epoch)
        # A loader draws a random number as it starts. Where a run is taken up within an epoch, that was drawn before.
        within = trainer.step % len(self.loader) != 0
        if not within:
            trainer.restore_randomness()
        batches = iter(self.loader)
        if within:
            trainer.restore_randomness()
        trainer.restore_averages()
        return self._each(batches)

    def _each(self, batches: Iterator[Any]) -> Iterator[Any]:
        for n, batch in enumerate(batches):
            if n > 0:  # the loop has counted the coming step already
                self.trainer.between_steps(self.trainer.step - 1)
            yield batch


class Resumable(OCPTrainer):
    """Mixed into the trainer that the configuration names."""

    train_loader: Any
    ema: Any
    step: int
    epoch: float
    found: dict[str, Any] | None = None
    validated_step = -1
    measured = "train"
    seconds = 0.0
    since = 0.0

    # ----- data, references, normalisers

    def load_datasets(self) -> None:
        super().load_datasets()
        self.train_loader = Steps(self.train_loader, self)

    def load_references_and_normalizers(self) -> None:
        """In float64: total energies are thousands of eV, and what is left of them tenths."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            super().load_references_and_normalizers()
        finally:
            torch.set_default_dtype(before)
        if self.config["task"].get("tie_normalizers") and {"energy", "forces"} <= self.normalizers.keys():
            # Forces that are the gradient of the energy have its unit.
            scale = self.normalizers["forces"].rmsd
            self.normalizers["energy"] = create_normalizer(mean=torch.zeros_like(scale), rmsd=scale).to(self.device)

    # ----- checkpoints

    @property
    def fixed(self) -> dict[str, Any]:
        """What a resumption must not change: the batches would be others."""
        return {
            "batch_size": self.config["optim"]["batch_size"],
            "n_train": len(self.train_dataset),
            "seed": self.config["cmd"]["seed"],
            "processes": distutils.get_world_size(),
            "optimizer": self.config["optim"].get("optimizer", "AdamW"),
            "ema": bool(self.ema_decay),
            "transforms": job().transforms,
            "data": None if (inputs := job().inputs) is None else inputs.trained_on,
        }

    @property
    def judged(self) -> dict[str, Any]:
        """What decides the primary metric of given weights: values of another such are not compared."""
        inputs = job().inputs
        return {"metric": self._primary_metric, "data": None if inputs is None else inputs.judged_on}

    def _own_state(self, step_is_over: bool) -> dict[str, Any]:
        lines = job().log_path
        return {
            "schema_version": SCHEMA_VERSION,
            "fixed": self.fixed,
            "step_is_over": step_is_over,
            "validated_step": self.validated_step,
            "random": self._random_state(),
            "averages": {
                name: {key: _number(value) for key, value in one.items()}
                for name, one in getattr(self, "metrics", {}).items()
            },
            "log_bytes": lines.stat().st_size if lines.exists() else 0,
            "seconds": self.seconds + (time.perf_counter() - self.since if self.since else 0.0),
            "parent": job().parent,
            "task": job().began,
            "judged": self.judged,
        }

    def _random_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def save(
        self, metrics: Any = None, checkpoint_file: str = CHECKPOINT, training_state: bool = True, over: bool = False
    ) -> str | None:
        """As FairChem's, atomically. Called by its loop, the step's validation and scheduler are still to come."""
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise FatalError(f"{job().run_dir}: weights are not finite after update step {self.step}; {ADVICE}")
        over = over or self.config["optim"].get("checkpoint_every") == -1
        own = self._own_state(over) if training_state else None

        def write(state: dict[str, Any], checkpoint_dir: str, checkpoint_file: str) -> str:
            path = Path(checkpoint_dir) / checkpoint_file
            save_tensors(path, state | ({OURS: own} if own is not None else {}))
            return str(path)

        before, base_trainer.save_checkpoint = base_trainer.save_checkpoint, write
        try:
            path = super().save(metrics, checkpoint_file, training_state)
        finally:
            base_trainer.save_checkpoint = before
        if training_state and (self.val_loader is None or not self._artifacts_are_there):
            self._export(CHECKPOINT)
        return path

    def load_checkpoint(
        self, checkpoint_path: str, checkpoint: dict[str, Any] | None = None, inference_only: bool = False
    ) -> None:
        state = load_tensors(checkpoint_path) if checkpoint is None else checkpoint
        own = state.pop(OURS, None)
        if own is not None:
            if own["schema_version"] != SCHEMA_VERSION:
                raise InputError(f"not a checkpoint of schema {SCHEMA_VERSION}", checkpoint_path)
            same_settings(own["fixed"], self.fixed, checkpoint_path)
        scheduler = getattr(self.scheduler, "scheduler", None) if self.scheduler.scheduler_type != "Null" else None
        rates = Rates.of(self.config["optim"], self.optimizer, scheduler)
        before = None if own is None or rates.same_as(state["config"]["optim"]) else state["config"]["optim"]
        if before is not None:
            state = rates.resumed(state, checkpoint_path)
        super().load_checkpoint(checkpoint_path, state, inference_only)
        if before is not None:
            rate = rates.apply(self.optimizer, scheduler, before)
            log.info("optim is not that of the checkpoint: training goes on with a rate of %.3g", rate)
        if self.ema is not None and self.ema_decay:
            self.ema.decay = self.ema_decay
        if self.ema is None and self.ema_decay:
            self.ema = ExponentialMovingAverage(self.model.parameters(), self.ema_decay)
        if own is not None:
            for target, saved in state["normalizers"].items():  # FairChem has rounded them to float32
                for name, value in saved.items():
                    setattr(self.normalizers[target], name, value.to(self.device))
            self.found, self.seconds, self.validated_step = own, own["seconds"], own["validated_step"]
            self._cut_log(own["log_bytes"])

    def _cut_log(self, length: int) -> None:
        lines = job().log_path
        if distutils.is_master() and lines.exists() and lines.stat().st_size > length:
            with open(lines, "rb+") as stream:
                stream.truncate(length)

    def restore_randomness(self) -> None:
        if self.found is not None:
            torch.set_rng_state(self.found["random"]["cpu"].cpu())
            if self.device.type == "cuda" and "cuda" in self.found["random"]:
                torch.cuda.set_rng_state(self.found["random"]["cuda"].cpu(), self.device)

    def restore_averages(self) -> None:
        if self.found is not None:
            self.metrics = self.found["averages"]
            self.found = None

    @property
    def _artifacts_are_there(self) -> bool:
        return (job().run_dir / "artifacts" / "manifest.json").is_file()

    def _export(self, checkpoint: str) -> None:
        """The standard artifacts from a checkpoint of this run."""
        if distutils.is_master():
            export_checkpoint(
                Path(self.config["cmd"]["checkpoint_dir"]) / checkpoint,
                job().run_dir / "artifacts",
                backend=job().backend,
                parent=job().parent,
                config={"task": job().task, "global_step": self.step},
            )

    # ----- steps

    def _compute_loss(self, out: dict[str, torch.Tensor], batch: Any) -> torch.Tensor:
        """FairChem counts predictions that are not numbers as zero, and would train on without a word."""
        loss = super()._compute_loss(out, batch)
        if not all(torch.isfinite(value).all() for value in (*out.values(), loss)):
            energies, forces = (out[name].detach().float().cpu().numpy() for name in ("energy", "forces"))
            sizes = batch.natoms.cpu().numpy()
            wrong = not_finite(energies.reshape(-1), forces.reshape(-1, 3), sizes)
            if not len(wrong):  # the loss alone: of labels whose squares overflow
                labels = torch.square(batch.forces.float()).cpu().numpy()
                wrong = not_finite(None, labels, sizes)
            where = "at" if self.measured == "train" else "in the validation at"
            loader = self.train_loader.loader if self.measured == "train" else self.val_loader
            names = [loader.dataset.dataset.name(int(batch.sid[n])) for n in wrong[:5]]
            which = "every structure of a batch" if len(wrong) == len(sizes) > 1 else "; ".join(names) or "a batch"
            raise FatalError(
                f"{job().run_dir}: energies, forces or their loss are not finite {where} update step {self.step}; "
                f"{ADVICE}: {which}"
            )
        return loss

    def between_steps(self, done: int) -> None:
        """``done`` update steps are over, and the next has not begun."""
        total = self.config["optim"]["max_epochs"] * len(self.train_loader)
        job().report(event="at", global_step=done, total=total)
        limit = job().max_seconds
        late = limit is not None and done > 0 and time.perf_counter() - self.since > limit
        if late or job().stop.is_set():
            self.step, self.epoch = done, done / len(self.train_loader)
            if late:
                raise TimeUp
            if done > 0:
                self.save(over=True)
            raise Stopped

    def validate(self, split: str = "val", disable_tqdm: bool = False) -> Any:
        self.measured = split
        found = super().validate(split, disable_tqdm)
        self.measured = "train"
        self.validated_step = self.step
        return found

    def _take_up(self) -> None:
        """Task ``resume``: weights kept so far are the best only by the present metric on the present validation set.
        Where these are others, they are measured anew."""
        assert self.found is not None
        best = Path(self.config["cmd"]["checkpoint_dir"]) / BEST
        if self.val_loader is None or (best.is_file() and self.found.get("judged") == self.judged):
            return
        metric = self._primary_metric
        self.best_val_metric = 1e9 if "mae" in metric else -1.0  # FairChem's own beginning
        self.primary_metric = metric
        if not best.is_file():
            log.info("the weights that the run kept are not beside its checkpoint: the best are chosen anew")
            return
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        ema, validated, self.ema, job().event = self.ema, self.validated_step, None, "kept_weights"
        try:
            self.model.load_state_dict(load_tensors(best)["state_dict"])
            self.best_val_metric = self.validate("val", disable_tqdm=True)[metric]["metric"]
        finally:
            self.model.load_state_dict(own)
            self.ema, self.validated_step, job().event = ema, validated, "validation"
        log.info(
            "the metric or the validation set may not be that of the checkpoint: the weights kept so far were measured "
            "anew, with %s = %.6g",
            metric,
            _number(self.best_val_metric),
        )

    def update_best(self, primary_metric: str, val_metrics: Any, disable_eval_tqdm: bool = True) -> None:
        before = self.best_val_metric
        super().update_best(primary_metric, val_metrics, disable_eval_tqdm)
        if self.best_val_metric != before:
            self._export(BEST)

    @property
    def _primary_metric(self) -> str:
        return str(self.evaluation_metrics.get("primary_metric", self.evaluator.task_primary_metric[self.name]))

    def _rest_of_step(self) -> None:
        """What the loop does with a step after it has saved: validation, then the scheduler."""
        optim, metrics = self.config["optim"], None
        evaluated = self.step % optim.get("eval_every", len(self.train_loader)) == 0
        if evaluated and self.val_loader is not None:
            metrics = self.validate("val", disable_tqdm=True)
            self.update_best(self._primary_metric, metrics)
        if self.scheduler.scheduler_type != "ReduceLROnPlateau":
            self.scheduler.step()
        elif metrics is not None:
            self.scheduler.step(metrics=metrics[self._primary_metric]["metric"])

    def train(self, disable_eval_tqdm: bool = True) -> None:
        """FairChem's training, from where the checkpoint left it to its end."""
        self.since = time.perf_counter()
        if self.found is not None:
            if not self._artifacts_are_there and (Path(self.config["cmd"]["checkpoint_dir"]) / BEST).is_file():
                self._export(BEST)  # a run that goes on in another run_dir
            if job().task == "resume":
                self._take_up()
            self.restore_randomness()
            if not self.found["step_is_over"]:
                self._rest_of_step()
                self.found["random"] = self._random_state()
        elif self.step == 0:
            job().log_path.unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
        reason = "epochs"
        try:
            super().train(disable_eval_tqdm=True)
        except TimeUp:
            reason = "max_seconds"
        if self.val_loader is not None and self.validated_step != self.step:
            self.update_best(self._primary_metric, self.validate("val", disable_tqdm=True))
        self.save(over=True)
        seconds = self.seconds + time.perf_counter() - self.since
        best = None if self.val_loader is None else self.best_val_metric
        job().report(
            event="trained",
            stop_reason=reason,
            global_step=self.step,
            seconds=round(seconds, 3),
            primary_metric=self._primary_metric,
            best=_number(best) if best is not None and math.isfinite(_number(best)) else None,
        )
        logging.info("Trained: %s at step %d", reason, self.step)


def install(work: Job) -> None:
    """Every trainer that a configuration may name becomes resumable; ``setup_imports`` of FairChem has been called."""
    global _job
    _job = work
    known = registry.mapping["trainer_name_mapping"]
    for name in ("ocp", "forces", "equiformerv2_forces"):
        if not issubclass(known[name], Resumable):
            known[name] = type(f"Resumable{known[name].__name__}", (Resumable, known[name]), {})
