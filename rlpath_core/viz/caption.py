"""What is written round a rendered picture: the attempt, the basin, the marks, the legend. Drawn with Pillow."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rlpath_core.viz.scene import BACKGROUND, Picture, colour_map

INK, QUIET, EDGE = (25, 29, 38), (105, 112, 125), (205, 209, 217)
PAPER = (255, 255, 255)
NEW, TRIGGER = (22, 128, 76), (196, 62, 28)
STAGES = {"action": "displaced", "quench_step": "quench", "minimum": "minimum"}


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: the same on every machine, with Å and arrows."""
    name = f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def bands(width: int, height: int) -> tuple[int, int]:
    """Heights in pixels of the strips above and below the picture."""
    unit = _unit(width, height)
    return round(3.4 * unit), round(2.0 * unit)


def _unit(width: int, height: int) -> int:
    """Height of the type, pixels."""
    return max(9, round(min(width / 46, height / 26)))


def framed(raw: Image.Image, picture: Picture, width: int, height: int) -> Image.Image:
    """The rendered picture between its strips: what happens above, legend below."""
    top, bottom = bands(width, height)
    out = Image.new("RGB", (width, height), tuple(round(255 * c) for c in BACKGROUND))
    out.paste(raw.convert("RGB"), (0, top))
    draw = ImageDraw.Draw(out)
    draw.rectangle((0, 0, width, top - 1), fill=PAPER)
    draw.rectangle((0, height - bottom, width, height), fill=PAPER)
    draw.line((0, top - 1, width, top - 1), fill=EDGE)
    draw.line((0, height - bottom, width, height - bottom), fill=EDGE)
    unit = _unit(width, height)
    _head(draw, picture.info, width, unit)
    _legend(out, picture, height - bottom // 2, unit)
    return out


def _head(draw: ImageDraw.ImageDraw, info: dict[str, Any], width: int, unit: int) -> None:
    pad, right = unit, width - unit
    first, second = round(1.05 * unit), round(2.45 * unit)
    # badges from the right, on the first line; off ones stay as outlines, so that their place is known
    reason = str(info.get("trigger_reason", "none")).replace("_", " ").replace("+", " + ")
    triggered = _true(info.get("trigger"))
    dft = f"DFT: {reason}" if triggered and reason != "none" else "DFT"
    for text, on, colour in ((dft, triggered, TRIGGER), ("NEW BASIN", _true(info.get("new_basin")), NEW)):
        if text == "NEW BASIN" or "trigger" in info:
            right = _badge(draw, text, on, colour, right, first, unit) - unit // 2
    action = str(info.get("action", "")).replace("_", " ")
    stage = str(info.get("stage", ""))
    step = info.get("quench_step")
    shown = STAGES.get(stage, stage) + (f" {step}" if stage == "quench_step" and step is not None else "")
    number = f"#{info['attempt']} " if "attempt" in info else ""
    line = _fitting(draw, f"{number}{action}", font(unit, bold=True), right - pad)
    draw.text((pad, first), line, fill=INK, font=font(unit, bold=True), anchor="lm")
    at = pad + draw.textlength(line, font=font(unit, bold=True)) + unit
    if shown and at + draw.textlength(shown, font=font(unit)) < right:
        draw.text((at, first), shown, fill=QUIET, font=font(unit), anchor="lm")
    small = font(max(8, round(0.88 * unit)))
    left = str(info.get("where", ""))
    if info.get("basin") is not None:
        start, end = (str(info.get(key, "none")).replace("none", "–") for key in ("from_basin", "basin"))
        left += f"   {start} → {end}"
    figures = []
    if info.get("energy") is not None:
        figures.append(f"E {float(info['energy']):.3f} eV")
    if info.get("max_force") is not None:
        figures.append(f"max F {float(info['max_force']):.2f}")
    if info.get("mean_force") is not None:
        figures.append(f"mean {float(info['mean_force']):.2f} eV/Å")
    text = "   ".join(figures)
    room = width - 2 * pad - draw.textlength(text, font=small) - unit
    draw.text((pad, second), _fitting(draw, left.strip(), small, room), fill=INK, font=small, anchor="lm")
    draw.text((width - pad, second), text, fill=QUIET, font=small, anchor="rm")


def _true(value: Any) -> bool:
    return bool(value) and str(value) not in ("F", "False", "none")


def _badge(
    draw: ImageDraw.ImageDraw, text: str, on: bool, colour: tuple[int, int, int], right: int, middle: int, unit: int
) -> int:
    """A mark that ends at ``right``; returns where it begins."""
    type_ = font(max(8, round(0.82 * unit)), bold=True)
    wide, half = round(draw.textlength(text, font=type_) + unit), round(0.72 * unit)
    box = (right - wide, middle - half, right, middle + half)
    draw.rounded_rectangle(box, radius=half // 2, fill=colour if on else PAPER, outline=colour if on else EDGE)
    draw.text((right - wide / 2, middle), text, fill=PAPER if on else EDGE, font=type_, anchor="mm")
    return right - wide


def _fitting(draw: ImageDraw.ImageDraw, text: str, type_: ImageFont.FreeTypeFont, room: float) -> str:
    if draw.textlength(text, font=type_) <= room:
        return text
    while text and draw.textlength(text + "…", font=type_) > room:
        text = text[:-1]
    return text + "…" if text else ""


def _legend(out: Image.Image, picture: Picture, middle: int, unit: int) -> None:
    draw, small, at = ImageDraw.Draw(out), font(max(8, round(0.85 * unit))), float(unit)
    radius = round(0.45 * unit)
    if picture.bar is not None:
        wide = 9 * unit
        ramp = Image.fromarray((255 * colour_map(np.linspace(0, 1, wide))).astype(np.uint8)[None].repeat(unit, axis=0))
        out.paste(ramp, (round(at), middle - unit // 2))
        at += wide + unit / 2
        text = f"force 0–{picture.bar:g} eV/Å"
        draw.text((at, middle), text, fill=INK, font=small, anchor="lm")
        at += draw.textlength(text, font=small) + 1.2 * unit
    for name, colour in picture.legend:
        fill = tuple(round(255 * c) for c in colour)
        draw.ellipse((at, middle - radius, at + 2 * radius, middle + radius), fill=fill, outline=QUIET)
        at += 2 * radius + 0.4 * unit
        draw.text((at, middle), name, fill=INK, font=small, anchor="lm")
        at += draw.textlength(name, font=small) + 1.2 * unit
