"""The reference pages and schemas say what the code checks."""

import ast
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from flows.config import COMMAND, FILES, ROOT, files
from rlpath_core.config.reference import keys, meaning

BY_NAME = {file.name: file for file in FILES}
RUN = {key.path: key.field for key in keys(BY_NAME["run"])}


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_what_is_written_is_what_the_code_says(path: Path):
    assert path.read_text(encoding="utf-8") == files()[path], f"stale: run {COMMAND}"


@pytest.mark.parametrize(
    ("schema", "config"),
    [
        ("campaign", "al_loop.yaml"),
        ("sampling", "sampling.yaml"),
        ("sample", "sample.yaml"),
        ("dft", "dft.yaml"),
        ("dft", "slurm.yaml"),
        ("outbox", "outbox.yaml"),
        ("run", "starter.yaml"),
        ("run", "starter_fairchem.yaml"),
        *(("run", f"run/{path.name}") for path in sorted((ROOT / "configs" / "run").glob("*.yaml"))),
    ],
)
def test_an_editor_accepts_the_shipped_configs_and_refuses_a_misspelt_key(schema: str, config: str):
    path = ROOT / "configs" / config
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    named = (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve()
    assert named == ROOT / "configs" / "schemas" / f"{schema}.json"
    checker = jsonschema.Draft202012Validator(json.loads(named.read_text(encoding="utf-8")))
    value = yaml.safe_load(text)
    checker.validate(value)
    assert not checker.is_valid({**value, "devise": "cpu"})


def test_every_key_of_the_interface_is_there():
    """The public names, to the letter."""
    common = "backend task run_dir model_in device backend_python backend_env backend_args model.manifest model.weights"
    data = "train val test indices indices_path"
    indices = "max_samples shuffle seed indices_path"
    train = """input_json epochs batch_size num_workers seed lr weight_decay optimizer amp accum_steps drop_last
        cycle_steps max_grad_norm save_every log_every progress_bar progress_mininterval freeze scheduler_step_unit
        energy_weight force_weight head_key early_stop_factor config_yml identifier"""
    wanted = set(common.split()) | {f"data.{key}" for key in data.split()} | {f"train.{key}" for key in train.split()}
    wanted |= {f"data.{split}_indices.{key}" for split in ("train", "val") for key in indices.split()}
    wanted |= {"eval.energy_only", "eval.amp"}
    assert wanted <= RUN.keys()
    assert RUN["train.head_key"].default == "omat_pbe"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_key_has_a_meaning_in_a_sentence(file):
    fragments = [key.path for key in keys(file) if not meaning(file, key).endswith((".", ")"))]
    assert not fragments


def test_descriptions_stand_under_their_fields():
    """One way to describe a key: the string below it."""
    wrong = [
        f"{path.name}:{node.lineno}"
        for path in sorted((ROOT / "rlpath_core").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Field"
        if any(keyword.arg == "description" for keyword in node.keywords)
    ]
    assert not wrong
