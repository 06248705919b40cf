"""``Campaign``: a folder, the round that comes next, and the stages that take it there.

Every stage is idempotent: it first looks for the record of its own end, and what it does inside is keyed in the
database or resumed from a checkpoint. So whoever calls (a Prefect worker, a script, the same command after a power
cut) may call a stage again at any time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlpath_core.campaign import report, rounds, saddles, stages
from rlpath_core.campaign.layout import Layout
from rlpath_core.campaign.options import CHANGEABLE, CampaignConfig
from rlpath_core.campaign.resolve import resolve_campaign
from rlpath_core.config import first_change, read_section, yaml_of
from rlpath_core.dft.resolve import resolve_dft
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, write_json
from rlpath_core.progress import Progress
from rlpath_core.training.inputs import Inputs

STAGES: dict[str, Callable[[Campaign, int, Progress | None], dict[str, Any]]] = {
    "evaluate_start": stages.evaluate_start,
    "explore": stages.explore,
    "find_paths": saddles.find_paths,
    "label": stages.label,
    "learn": stages.learn,
}
READ = ("structure", "heldout", "near", "replay")
"""Keys whose files every round reads anew."""
START = ("evaluate_start",)
ROUND = ("explore", "find_paths", "label", "learn")


def open_campaign(params: dict[str, Any], source: Path | None = None) -> Campaign:
    """Create the campaign that ``params`` describe, or continue it.

    Parameters
    ----------
    params
        The keys of a campaign file.
    source
        The file that the params were read from, for error messages and relative paths.

    Raises
    ------
    InputError
        The params are wrong, or differ from those that the campaign was started with in more than rounds, execution,
        device and launcher, or one of the files that they name in ``READ`` holds something else now.
    """
    config = resolve_campaign(params, source)
    folder = config.campaigns_dir / config.campaign
    saved = folder / "config.yaml"
    if saved.exists():
        before = read_section(saved, CampaignConfig)
        before = before.model_copy(
            update={"dft": resolve_dft(before.dft, saved, "dft.")}
        )  # with an engine's newer keys
        old, new = (one.model_dump(mode="json") for one in (before, config))
        if change := first_change(old, new, lambda key: key.startswith(CHANGEABLE)):
            raise InputError(
                f"campaign {config.campaign!r} was started with {change.old!r}, not {change.new!r}; "
                f"give the new one another name (campaign=NAME) or move {folder} away",
                saved,
                change.key,
            )
    inputs = Inputs.named({key: getattr(config, key) for key in READ}, folder)
    if saved.exists() and (key := inputs.changed(folder)):
        raise InputError(
            f"the file holds something else than when campaign {config.campaign!r} began, whose rounds could not be "
            f"compared: put it back, or give the new campaign another name (campaign=NAME)",
            getattr(config, key),
            key,
        )
    inputs.write(folder)
    with atomic_write(saved) as stream:
        stream.write(yaml_of(config))
    return Campaign(folder, config)


def load_campaign(folder: str | Path) -> Campaign:
    """The campaign in ``folder``, as its resolved config says."""
    return Campaign(Path(folder), read_section(Path(folder) / "config.yaml", CampaignConfig))


def check_environments(config: CampaignConfig) -> None:
    """Raises InputError that says what to run where a backend of the campaign is nowhere installed on this machine."""
    from rlpath_core.backends.environments import interpreter_of

    for backend in config.backends:
        interpreter_of(backend)


class Campaign(Layout):
    """One loop on one system: which stages are left, and running them."""

    def next_round(self) -> int | None:
        """The first round that is not finished, or None when the campaign is done."""
        with self.store() as store:
            done = rounds.finished(store)
        todo = [k for k in range(self.config.rounds + 1) if k not in done]
        return todo[0] if todo else None

    def stages(self, round_index: int) -> list[str]:
        """The stages of a round that have not ended yet, in order."""
        return [stage for stage in self.stages_of(round_index) if self.ended(stage, round_index) is None]

    def stages_of(self, round_index: int) -> tuple[str, ...]:
        """All stages of a round, in order; without saddle searches (``paths: null``) there is none for them."""
        if round_index == 0:
            return START
        return ROUND if self.config.paths is not None else tuple(stage for stage in ROUND if stage != "find_paths")

    def _record(self, stage: str, round_index: int) -> Path:
        return self.folder / "stages" / f"round-{round_index}-{stage}.json"

    def ended(self, stage: str, round_index: int) -> dict[str, Any] | None:
        """What a stage returned, if it has ended."""
        path = self._record(stage, round_index)
        if not path.exists():
            return None
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value

    def run_stage(self, stage: str, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
        """Run one stage of one round, or return what it gave when it ended before."""
        result = self.ended(stage, round_index)
        if result is None:
            result = STAGES[stage](self, round_index, progress)
            write_json(self._record(stage, round_index), result)
        return result

    def evaluate_start(self, round_index: int = 0, progress: Progress | None = None) -> dict[str, Any]:
        return self.run_stage("evaluate_start", round_index, progress)

    def explore(self, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
        return self.run_stage("explore", round_index, progress)

    def find_paths(self, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
        return self.run_stage("find_paths", round_index, progress)

    def label(self, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
        return self.run_stage("label", round_index, progress)

    def learn(self, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
        return self.run_stage("learn", round_index, progress)

    def finish_round(self, round_index: int, orchestration_seconds: float) -> dict[str, Any]:
        """Write the round into the database, ``rounds.json``, ``learning_curve.png`` and ``report.html``.

        ``orchestration_seconds``: the loop's wall time in this round outside the stages' own seconds.
        """
        results = {stage: self.ended(stage, round_index) for stage in self.stages_of(round_index)}
        missing = [stage for stage, result in results.items() if result is None]
        if missing:
            raise RuntimeError(f"round {round_index} cannot be finished: {', '.join(missing)} has not ended")
        with self.store() as store:
            entry = rounds.finish(self, store, round_index, results, orchestration_seconds)  # type: ignore[arg-type]
            entries = rounds.entries(store)
            write_json(self.folder / "rounds.json", entries)
            report.write(self, store, entries)
        return entry

    def rounds(self) -> list[dict[str, Any]]:
        """The entries of ``rounds.json``, from the database."""
        with self.store() as store:
            return rounds.entries(store)

    def table(self) -> str:
        """The rounds as a plain text table."""
        return report.text_table(self.rounds())

    def artifact(self, round_index: int) -> tuple[str, Path]:
        """Markdown of the rounds up to ``round_index``, and the picture of the learning curve."""
        return report.markdown(
            [e for e in self.rounds() if e["round"] <= round_index]
        ), self.folder / "learning_curve.png"
