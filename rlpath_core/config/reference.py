"""docs/run_yaml.md, written from the models that check a run.yaml: ``python -m rlpath_core.config.reference``."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlpath_core.files import atomic_write
from rlpath_core.training.options import RunSpec

PAGE = Path(__file__).parents[2] / "docs" / "run_yaml.md"
INTRODUCTION = """\
# run.yaml: every key

Written by `python -m rlpath_core.config.reference` from the models that check the file; do not edit.

One mapping, or `runs: [...]` with a `name` each, chosen with `--run NAME`:

```bash
python -m flows.run --config run.yaml [--run NAME] [--params key.sub=value ...]
torchrun --nproc-per-node 2 -m -- flows.run --config run.yaml   # data parallel
prefect deployment run run/default --param config=/path/to/run.yaml
```

Paths are relative to the file. `data.train: x` means `data: {train: x}`. An unknown key, a wrong type, a missing or a
conflicting setting ends with one line that names the file and the key, and exit code 2. What was used, defaults
included, is written to `run_dir/run.yaml` (`evaluate.yaml`, `infer.yaml` or `export.yaml` by these tasks).

| task | needs | writes into `run_dir` |
|---|---|---|
| train | `train.input_json`, `data.train` | `artifacts/{best_model.pt,manifest.json,model.json}`, \
`checkpoints/checkpoint.pt`, `metrics.jsonl`, `result.json` |
| finetune | `model.manifest` or `model_in`, `data.train` | the same |
| resume | `model_in`: a checkpoint.pt, or a run_dir; `data.train` | the same |
| evaluate | `model.manifest` or `model_in`, `data.test` or `data.val` | `metrics.json`, `parity.png` |
| infer | the same; labels are not needed | `predictions.{extxyz,parquet,lmdb}`, as `eval.formats` says |
| export | `model_in`: a checkpoint, a bundle or a foreign `.model` | `artifacts/` with a bundle and a `mace.model` \
for `MACECalculator` |

EquiformerV2 and GemNet-OC are trained by FairChem's own trainer, in its own environment (`make fairchem`), with
`train.config_yml` in place of `train.input_json`. `run_dir` then also holds `fairchem.yml` (its whole configuration),
`fairchem.log`, `scale_factors.json` (GemNet-OC) and its own `checkpoints/best_checkpoint.pt`.

A micro-step is one backward pass; an update step (global step) is one optimizer step, after `train.accum_steps`
micro-steps.
"""
HEADER = "| key | value | default | meaning |\n|---|---|---|---|"
TITLES = {
    "": "Common",
    "model": "model",
    "data": "data",
    "data.train_indices": "data.train_indices and data.val_indices",
    "train": "train",
    "eval": "eval",
}


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field of a model, as one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = getattr(below.value, "value", None)
            if isinstance(text, str):
                found[field.target.id] = " ".join(text.replace("``", "`").split())
    return found


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def keys(model: type[BaseModel] = RunSpec, prefix: str = "") -> dict[str, tuple[type[BaseModel], str, FieldInfo]]:
    """Every key that takes a value, by its path, with the model and name of its field."""
    found: dict[str, tuple[type[BaseModel], str, FieldInfo]] = {}
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            found[prefix + name] = (model, name, field)
        else:
            found |= keys(section, f"{prefix}{name}.")
    return found


def _kind(annotation: Any) -> str:
    """How a YAML value of this type is written."""
    if annotation is type(None):
        return "null"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " / ".join(str(value) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " / ".join(_kind(one) for one in inner if one is not type(None))
    if origin is list:
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return "mapping"
    names = {Path: "path", bool: "true / false", int: "integer", float: "number", str: "text"}
    return names.get(annotation, str(annotation))


def _limits(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return "".join(
        f", {sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "{}" if value == {} else str(value)


def page() -> str:
    """The whole page as Markdown."""
    sections: dict[str, list[str]] = {}
    for path, (model, name, field) in keys().items():
        where = path.rpartition(".")[0]
        if where == "data.val_indices":
            continue
        meaning = meanings(model).get(name, "")
        shown = path.replace("data.train_indices.", "data.*_indices.")
        row = f"| `{shown}` | {_kind(field.annotation)}{_limits(field)} | {_default(field)} | {meaning} |"
        sections.setdefault(where, []).append(row)
    out = [INTRODUCTION]
    for where, rows in sections.items():
        out.append("\n".join([f"## {TITLES[where]}\n", HEADER, *rows, ""]))
    return "\n".join(out)


if __name__ == "__main__":
    with atomic_write(PAGE) as stream:
        stream.write(page())
