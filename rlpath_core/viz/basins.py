"""The basins of a campaign from its database, and the contact sheet of them all."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write
from rlpath_core.locks import exclusive
from rlpath_core.progress import Progress
from rlpath_core.store import Store, queries
from rlpath_core.store.records import Basin
from rlpath_core.viz.caption import INK, PAPER, QUIET, font
from rlpath_core.viz.frames import render_frames
from rlpath_core.viz.options import VisualizeSpec
from rlpath_core.viz.renderers import RENDERERS
from rlpath_core.viz.scene import BACKGROUND, Picture, pictures
from rlpath_core.viz.trajectory import Shot


@dataclass(frozen=True)
class SheetSummary:
    sheet: str
    basins: int
    drawn: int
    kept: int
    renderer: str
    seconds: float


def open_database(campaign: Path) -> Store:
    """The database of a campaign or a sampling run; InputError where there is none (opening would make one)."""
    if not (campaign / "rlpath.db").is_file():
        raise InputError("holds no rlpath.db: not the folder of a campaign or of a sampling run", campaign, "campaign")
    return Store(campaign)


def read_basins(store: Store, round_index: int | None = None) -> list[Basin]:
    """All basins, lowest energy first. InputError when there is none (in that round)."""
    found = queries.basins(store, round_index)
    if not found:
        raise InputError("has no basin yet" + ("" if round_index is None else f" in round {round_index}"), store.folder)
    return found


def contact_sheet(spec: VisualizeSpec, progress: Progress | None = None) -> SheetSummary:
    """``contact_sheet.png``: every basin of ``spec.campaign`` (at most ``max_frames``), lowest energy first.

    Energies of different rounds come from different models; each tile also says how far it lies above the lowest
    basin of its own round. Tiles are kept, so that another call draws only new basins.
    """
    began = time.monotonic()
    assert spec.campaign is not None
    renderer = RENDERERS[spec.renderer]()
    with open_database(spec.campaign) as store:
        found = read_basins(store, spec.round)
        chosen = found[: spec.max_frames]
        structures = store.get([basin.structure_id for basin in chosen])
    renderer.command()
    look = spec.look if spec.look.colour != "force" else spec.look.model_copy(update={"colour": "element"})
    wide, high = 240, 230
    shots = [Shot(s, None, {"basin": b.id}) for b, s in zip(chosen, structures, strict=True)]
    drawn = pictures(shots, look, wide, high, steady=False)
    out = spec.out or spec.campaign / "viz"
    folder = out / spec.renderer
    with exclusive(folder / ".tiles.lock", "a rendering"):
        rendered = render_frames(drawn, folder / "tiles", renderer, (wide, high), lambda raw, _: raw, progress)
        title = f"{spec.campaign.resolve().name}: {_counted(len(chosen), len(found))} by energy"
        sheet = _sheet(rendered.paths, chosen, drawn[0], title, wide, high)
        path = out / "contact_sheet.png"
        with atomic_write(path, "wb") as stream:
            sheet.save(stream, format="PNG", optimize=True)
    seconds = round(time.monotonic() - began, 1)
    return SheetSummary(str(path), len(chosen), rendered.drawn, rendered.kept, rendered.about, seconds)


def _counted(shown: int, there: int) -> str:
    return f"{shown} basins" if shown == there else f"the lowest {shown} of {there} basins"


def _sheet(
    tiles: Sequence[Path], basins: Sequence[Basin], first: Picture, title: str, wide: int, high: int
) -> Image.Image:
    """Tiles in rows, a caption under each, a title with the legend on top."""
    columns = max(1, min(len(tiles), math.ceil(math.sqrt(1.6 * len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    head, foot, gap = 64, 46, 8
    width = max(columns * (wide + gap) + gap, 620)
    out = Image.new("RGB", (width, head + rows * (high + foot + gap) + gap), PAPER)
    draw = ImageDraw.Draw(out)
    draw.text((14, 20), title, fill=INK, font=font(17, bold=True), anchor="lm")
    at = 14.0
    for name, colour in first.legend:
        fill = tuple(round(255 * c) for c in colour)
        draw.ellipse((at, 40, at + 12, 52), fill=fill, outline=QUIET)
        draw.text((at + 17, 46), name, fill=INK, font=font(12), anchor="lm")
        at += 17 + draw.textlength(name, font=font(12)) + 16
    note = "E by the model of the basin's own round; + eV above that round's lowest"
    if at + draw.textlength(note, font=font(12)) < width - 14:
        draw.text((width - 14, 46), note, fill=QUIET, font=font(12), anchor="rm")
    for k, (path, basin) in enumerate(zip(tiles, basins, strict=True)):
        x, y = gap + (k % columns) * (wide + gap), head + (k // columns) * (high + foot + gap)
        draw.rectangle((x, y, x + wide - 1, y + high + foot - 1), fill=tuple(round(255 * c) for c in BACKGROUND))
        with Image.open(path) as tile:
            out.paste(tile.convert("RGB"), (x, y))
        of_round = "" if basin.round is None else f"r{basin.round} "
        draw.text((x + 8, y + high + 13), of_round + basin.name, fill=INK, font=font(14, bold=True), anchor="lm")
        energy = f"{basin.energy:.3f} eV"
        draw.text((x + wide - 8, y + high + 13), energy, fill=INK, font=font(14), anchor="rm")
        how = f"{basin.action.replace('_', ' ')}, {basin.visits}×"
        draw.text((x + 8, y + high + 33), how, fill=QUIET, font=font(12), anchor="lm")
        draw.text((x + wide - 8, y + high + 33), f"+{basin.above:.3f}", fill=QUIET, font=font(12), anchor="rm")
    return out
