"""What a person sees of a campaign: the table, the learning curve and ``report.html``."""

from __future__ import annotations

import base64
import io
from dataclasses import astuple
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from rlpath_core.campaign import saddles
from rlpath_core.files import atomic_write
from rlpath_core.kinetics.files import TABLE
from rlpath_core.store import Store, queries

if TYPE_CHECKING:
    from rlpath_core.campaign.layout import Layout

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("round", "round", "{:d}"),
    ("backend", "backend", "{:s}"),
    ("labels", "labels", "{:d}"),
    ("force_mae", "F MAE", "{:.1f}"),
    ("force_rmse", "F RMSE", "{:.1f}"),
    ("force_mae_top20", "F MAE top 20 %", "{:.1f}"),
    ("force_mae_near", "F MAE near", "{:.1f}"),
    ("energy_mae_per_atom", "E MAE/atom", "{:.2f}"),
    ("force_mae_new", "F MAE new", "{:.1f}"),
    ("energy_mae_per_atom_new", "E MAE/atom new", "{:.2f}"),
    ("basins", "basins", "{:d}"),
    ("candidates", "candidates", "{:d}"),
    ("steps", "steps", "{:d}"),
    ("steps_confirmed", "confirmed", "{:d}"),
    ("labels_per_step", "labels/step", "{:.1f}"),
    ("barrier_mae", "barrier MAE", "{:.0f}"),
    ("barrier_error", "largest barrier error", "{:.0f}"),
    ("failed", "failed", "{:d}"),
    ("sampling", "sampling s", "{:.1f}"),
    ("paths", "paths s", "{:.1f}"),
    ("labelling", "DFT s", "{:.1f}"),
    ("training", "training s", "{:.1f}"),
    ("evaluation", "evaluation s", "{:.1f}"),
    ("orchestration", "orchestration s", "{:.1f}"),
    ("total", "total s", "{:.1f}"),
)
"""Key, heading, format. Errors are shown in meV and meV/Å."""
SHOWN_BASINS = 30
PICTURES = (("minima and saddles", "network.png"), ("energy diagram", "energy_diagram.png"))


def rows(entries: list[dict[str, Any]]) -> list[list[str]]:
    """The cells of the table, headings first; columns that no round has are left out."""
    flat = [entry | entry["seconds"] | _on_new_labels(entry) for entry in entries]
    columns = [column for column in COLUMNS if any(column[0] in entry for entry in flat)]
    table = [[heading for _, heading, _ in columns]]
    for entry in flat:
        cells = []
        for key, _, form in columns:
            value = entry.get(key)
            scale = 1000 if key.startswith(("force_", "energy_", "barrier_")) else 1
            cells.append("-" if value is None else form.format(value * scale))
        table.append(cells)
    return table


NOTE = (
    "F: forces in meV/Å, E: energies in meV/atom, on the held-out set (near: on the near-equilibrium set; new: on the "
    "round's labels, before they are trained on). Steps: elementary steps that the model of the round before "
    "has; confirmed: by the reference, so far; barriers in meV."
)


def _on_new_labels(entry: dict[str, Any]) -> dict[str, float]:
    """The errors on the round's labels as columns of their own; none for round 0."""
    return {f"{key}_new": value for key, value in (entry.get("error_on_new_labels") or {}).items()}


def text_table(entries: list[dict[str, Any]]) -> str:
    """Columns right-aligned for a terminal."""
    table = rows(entries)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([*lines, NOTE])


def markdown(entries: list[dict[str, Any]]) -> str:
    head, *body = rows(entries)
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---:"] * len(head), *body]]
    return "\n".join([*lines, "", NOTE])


def learning_curve(entries: list[dict[str, Any]]) -> bytes:
    """PNG of the force errors against the number of labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    labels = [entry["labels"] for entry in entries]
    for key, name, marker in (
        ("force_mae_top20", "held-out, largest 20 % of forces", "s"),
        ("force_mae", "held-out", "o"),
        ("force_mae_near", "near equilibrium", "^"),
    ):
        if all(key in entry for entry in entries):
            axes.plot(labels, [1000 * entry[key] for entry in entries], marker=marker, label=name)
    # What the model of one round gets wrong on the labels of the next: it has been trained on those before them.
    unseen = [(before, _on_new_labels(entry)) for before, entry in zip(labels, entries[1:], strict=False)]
    points = [(before, 1000 * errors["force_mae_new"]) for before, errors in unseen if errors]
    if points:
        axes.plot(*zip(*points, strict=True), marker="v", linestyle="--", label="new labels, before training")
    axes.set_xlabel("reference labels")
    axes.set_ylabel("force MAE (meV/Å)")
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted(set(labels)))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def _encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def write(campaign: Layout, store: Store, entries: list[dict[str, Any]]) -> None:
    """``learning_curve.png`` and ``report.html`` (self-contained) in the campaign's folder."""
    picture = learning_curve(entries)
    with atomic_write(campaign.folder / "learning_curve.png", "wb") as stream:
        stream.write(picture)
    steps = None if campaign.config.paths is None else saddles.write_steps(campaign, store)
    last = queries.basins(store, entries[-1]["round"])[:SHOWN_BASINS]
    failed = [failure for failure in queries.failures(store) if failure.state == "failed"]
    template = resources.files("rlpath_core.campaign").joinpath("report.html").read_text(encoding="utf-8")
    page = (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            config=campaign.config,
            table=rows(entries),
            note=NOTE,
            picture=_encoded(picture),
            pictures=[]
            if steps is None
            else [(title, _encoded((steps / file).read_bytes())) for title, file in PICTURES],
            steps=None if steps is None else (steps / TABLE).read_text(encoding="utf-8"),
            basins=[(basin.round, basin.name, basin.energy, basin.above, basin.visits) for basin in last],
            actions=[astuple(count) for count in queries.action_counts(store)],
            origins=[astuple(origin) for origin in queries.label_origins(store)],
            failures=[(failure.round, failure.folder, failure.reason) for failure in failed],
            models=[(e["round"], e["model"]["manifest"], e["model"]["sha256"][:16]) for e in entries],
        )
    )
    with atomic_write(campaign.folder / "report.html") as stream:
        stream.write(page)
