"""What a model's files say wins over defaults; MACECalculator is the independent answer."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mace.calculators import MACECalculator

from rlpath_core.backends import load_model
from rlpath_core.backends.mace.architecture import Architecture, choose_head
from rlpath_core.backends.mace.build import build, state_of
from rlpath_core.backends.mace.bundle import write_bundle
from rlpath_core.backends.manifest import read_manifest
from rlpath_core.backends.tensors import load_state, save_tensors
from rlpath_core.data import read_labelled, write_extxyz
from rlpath_core.dft.engines.model import ModelEngine, ModelSettings
from rlpath_core.errors import InputError
from rlpath_core.evaluation import evaluate
from rlpath_core.files import sha256_of
from rlpath_core.training import run, train
from rlpath_core.training.loop import Trainer
from rlpath_core.training.options import MaceTraining, read_run
from rlpath_core.training.setup import prepare

TINY = {
    "z_table": [1, 8, 29],
    "cutoff": 3.5,
    "hidden_irreps": "4x0e",
    "max_ell": 1,
    "num_radial_basis": 5,
    "interactions": [{"type": "RealAgnosticInteractionBlock", "radial_mlp": [8]}, {"radial_mlp": [8]}],
    "products": [{"correlation": 2}, {"correlation": 2}],
    "readouts": [{}, {"type": "NonLinearReadoutBlock", "mlp_irreps": "4x0e", "gate": "silu"}],
}
E0S = {"omat_pbe": [-1.0, -2.0, -3.0], "mine": [-4.0, -9.0, -13.0]}


def bundle(folder, heads=("omat_pbe", "mine"), own="mine", dtype="float32", **changes):
    """A network with random weights and, where there are several heads, other answers for each."""
    several = len(heads) > 1
    architecture = Architecture(**{
        **TINY, "heads": list(heads), "avg_num_neighbors": 11.0,
        "e0_values": [E0S.get(h, [-2.0, -5.0, -7.0]) for h in heads] if several else E0S["omat_pbe"],
        "scale_shift": {"scale": [0.7, 1.3][: len(heads)], "shift": [0.2, -0.4][: len(heads)]}
        if several else {"scale": 0.7, "shift": 0.2},
        **changes,
    })  # fmt: skip
    net = build(architecture, torch.float64, seed=4)
    kind = getattr(torch, dtype)
    state = {k: v.to(kind) if v.is_floating_point() and "atomic_energies" not in k and "scale_shift" not in k else v
             for k, v in state_of(net, architecture).items()}  # fmt: skip
    return write_bundle(folder, architecture, state, head=own, dtype=dtype)[0]


def calculator(path, structures, head=None):
    """MACECalculator's energies of an exported mace.model."""
    own = MACECalculator(
        model_paths=str(path), device="cpu", default_dtype="float64", **({"head": head} if head else {})
    )
    out = []
    for structure in structures:
        atoms = structure.to_ase()
        atoms.calc = own
        out.append(atoms.get_potential_energy())
    return np.array(out)


@pytest.mark.parametrize(
    ("heads", "given", "own", "chosen"),
    [
        (["omat_pbe", "mine"], None, "mine", "mine"),
        (["omat_pbe", "mine"], "omat_pbe", "mine", "omat_pbe"),
        (["omat_pbe", "mine"], None, None, "omat_pbe"),
        (["rpbe", "Default"], None, None, "Default"),
        (["rpbe", "pbe"], None, None, "choose one of rpbe, pbe"),
        (["rpbe", "pbe"], "pbd", "rpbe", "Did you mean 'pbe'"),
        (["rpbe", "pbe"], "omat_pbe", "rpbe", "no head 'omat_pbe'"),
        (["rpbe", "pbe"], None, "lost", "no head 'lost'"),
        (["Default"], None, "Default", "Default"),
        (["Default"], "omat_pbe", None, "Default"),
        (["Default"], "mine", None, "no head 'mine'"),
    ],
)
def test_which_head(heads, given, own, chosen):
    architecture = SimpleNamespace(heads=heads, head_index=lambda head: Architecture.head_index(architecture, head))
    if chosen in heads:
        assert choose_head(architecture, given, own).name == chosen
    else:
        with pytest.raises(InputError, match=chosen):
            choose_head(architecture, given, own, "train.head_key")


def test_what_the_model_decides_is_not_written_into_run_yaml(tmp_path):
    train_section = MaceTraining.model_validate({"epochs": 3})
    assert train_section.head_key == "omat_pbe"
    assert train_section.given_head is None
    assert not {"head_key", "dtype"} & set(train_section.model_dump())
    given = MaceTraining.model_validate({"head_key": "omat_pbe", "dtype": "float32"})
    assert given.given_head == "omat_pbe"
    assert {"head_key", "dtype"} <= set(given.model_dump())


@pytest.fixture(scope="module")
def tuned(configure, small, tmp_path_factory):
    """The issue's case: a bundle with the heads omat_pbe and mine, fine-tuned on labels that only mine fits."""
    folder = tmp_path_factory.mktemp("own_head")
    value = json.loads((small / "model.json").read_text()) | {"heads": ["omat_pbe"]}
    (folder / "model.json").write_text(json.dumps(value))
    first = train(configure(folder / "first", train={"input_json": str(folder / "model.json")}))
    shifted = [replace(one, energy=one.energy + 40.0 * len(one.structure)) for one in read_labelled(small / "val.xyz")]
    write_extxyz(folder / "shifted.xyz", shifted)
    data = {"train": str(folder / "shifted.xyz"), "val": str(folder / "shifted.xyz")}
    spec = configure(folder / "tuned", task="finetune", model_in=str(first.manifest), data=data,
                     train={"new_head": "mine", "e0s": "lstsq"})  # fmt: skip
    return SimpleNamespace(folder=folder, manifest=train(spec).manifest, data=data, shifted=shifted)


@pytest.mark.slow
def test_every_task_uses_the_models_own_head(configure, tuned, caplog):
    structures = [one.structure for one in tuned.shifted]
    sampling = load_model(tuned.manifest)  # sampling, the campaign and benchmarks load it so
    expected = np.array([p.energy for p in sampling.predict(structures)])
    reference = np.array([one.energy for one in tuned.shifted])
    own_error = np.abs(expected - reference).mean()
    given = {"model_in": str(tuned.manifest), "data": {"test": tuned.data["train"]}}
    with caplog.at_level(logging.INFO, "rlpath"):
        found = run(configure(tuned.folder / "evaluated", task="evaluate", **given))
    assert found["energy_mae"] == pytest.approx(own_error, rel=1e-6)
    said = [one for one in caplog.records if "head mine of omat_pbe, mine (the model's own)" in one.getMessage()]
    assert len({one.created for one in said}) == 1, [one.getMessage() for one in said]
    other = run(configure(tuned.folder / "other", task="evaluate", **given, train={"head_key": "omat_pbe"}))
    assert other["energy_mae"] > 100 > own_error  # what was given is used

    inferred = read_labelled(run(configure(tuned.folder / "inferred", task="infer", **given)))
    assert [one.energy for one in inferred] == pytest.approx(expected, abs=1e-4)
    engine = ModelEngine(ModelSettings(manifest=tuned.manifest))
    assert [c.energy for c in engine.calculate(structures)] == pytest.approx(expected, abs=1e-4)

    exported = run(configure(tuned.folder / "exported", task="export", model_in=str(tuned.manifest)))
    assert read_manifest(exported.manifest).head == "mine"
    double = [p.energy for p in load_model(exported.manifest, dtype="float64").predict(structures)]
    file = exported.manifest.parent / "mace.model"
    assert calculator(file, structures, "mine") == pytest.approx(double, abs=1e-6)
    assert np.abs(calculator(file, structures, "omat_pbe") - double).min() > 100

    again = configure(tuned.folder / "again", task="finetune", model_in=str(tuned.manifest), data=tuned.data)
    second = load_model(train(again).manifest)
    assert second.head.startswith("mine of")
    errors = evaluate(second, tuned.shifted)["energy_mae"]
    assert errors < 2 * own_error + 1.0
    for key in ("head_key", "dtype"):
        assert f"{key}:" not in (tuned.folder / "again" / "run.yaml").read_text()


@pytest.mark.slow
def test_a_models_precision_wins_over_the_default(configure, tmp_path):
    manifest = bundle(tmp_path / "double", heads=("Default",), own="Default", dtype="float64")
    given = {"task": "finetune", "model_in": str(manifest)}
    kept = train(configure(tmp_path / "kept", **given, train={"epochs": 1}))
    assert read_manifest(kept.manifest).weights.dtype == "float64"
    resumed = configure(tmp_path / "kept", task="resume", model_in=str(tmp_path / "kept"), train={"epochs": 2})
    assert read_manifest(train(resumed).manifest).weights.dtype == "float64"
    single = train(configure(tmp_path / "single", **given, train={"epochs": 1, "dtype": "float32"}))
    assert read_manifest(single.manifest).weights.dtype == "float32"


# ----- one quantity in two files


def changed(manifest, **parts):
    """The bundle's model.json or manifest.json with other values, with matching digests."""
    folder = manifest.parent
    for name in ("model.json", "manifest.json"):
        file = folder / name
        value = json.loads(file.read_text())
        for path, new in parts.items():
            head, _, key = path.partition("__")
            if head == name.partition(".")[0]:
                at = value
                *above, last = key.split("__")
                for step in above:
                    at = at[step]
                at[last] = new
        if name == "manifest.json":
            value["config"]["architecture_sha256"] = sha256_of(folder / "model.json")
            if value["source"]["path"]:
                value["source"]["sha256"] = sha256_of(folder / "model.json")
        file.write_text(json.dumps(value))
    return manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model__e0_values": [-1.0, -2.0, -3.5]}, "atomic_energies differ from model.json"),
        ({"model__scale_shift": {"scale": 0.71, "shift": 0.2}, "manifest__normalizer": {}}, "scale_shift.scale differ"),
        ({"model__scale_shift": {"scale": 0.7, "shift": 0.3}, "manifest__normalizer": {}}, "scale_shift.shift differ"),
        ({"model__cutoff": 4.0}, "cutoff 3.5, and model.json says 4.0"),
        ({"model__z_table": [1, 8, 28]}, r"z_table \[1, 8, 29\], and model.json says"),
        ({"model__num_polynomial_cutoff": 6}, "num_polynomial_cutoff 5, and model.json says 6"),
        ({"model__heads": ["a", "b"]}, "no head 'Default'"),
        ({"manifest__normalizer__scale": 0.9}, "normalizer.scale: is 0.9, and model.json says 0.7"),
        ({"manifest__head": "lost"}, "no head 'lost'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_files_of_a_bundle_that_disagree_are_refused(change, message, tmp_path):
    manifest = changed(bundle(tmp_path / "b", heads=("Default",), own="Default"), **change)
    with pytest.raises(InputError, match=message):
        load_model(manifest)


@pytest.mark.slow
@pytest.mark.parametrize("heads", [("Default",), ("omat_pbe", "mine")])
def test_weights_from_elsewhere_bring_their_energies_of_atoms(heads, configure, small, tmp_path, caplog):
    """export with model.weights: the bundle, its model.json and mace.model are one model."""
    manifest = bundle(tmp_path / "b", heads=heads, own=heads[-1], dtype="float64")
    state = load_state(manifest.parent / "best_model.pt")
    state["atomic_energies_fn.atomic_energies"] = state["atomic_energies_fn.atomic_energies"] + 0.65
    state["scale_shift.shift"] = state["scale_shift.shift"] - 0.1
    save_tensors(tmp_path / "other.pt", state)
    spec = configure(tmp_path / "exported", task="export", model_in=str(manifest),
                     model={"weights": str(tmp_path / "other.pt")})  # fmt: skip
    with caplog.at_level(logging.INFO, "rlpath"):
        exported = run(spec).manifest
    assert any("atomic_energies_fn.atomic_energies, scale_shift.shift are used" in line for line in caplog.messages)
    structures = [one.structure for one in read_labelled(small / "val.xyz")]
    theirs = calculator(exported.parent / "mace.model", structures, heads[-1])
    ours = [p.energy for p in load_model(exported).predict(structures)]
    direct = [p.energy for p in load_model(manifest, weights=tmp_path / "other.pt").predict(structures)]
    before = [p.energy for p in load_model(manifest).predict(structures)]
    n_atoms = np.array([len(s) for s in structures])
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert direct == pytest.approx(theirs, abs=1e-6)
    assert ours == pytest.approx(before + 0.55 * n_atoms, abs=1e-6)
    stated = json.loads((exported.parent / "model.json").read_text())
    assert np.ravel(stated["e0_values"]) == pytest.approx(state["atomic_energies_fn.atomic_energies"].numpy().ravel())
    assert read_manifest(exported).normalizer == stated["scale_shift"]


def test_weights_of_another_network_are_refused(tmp_path):
    manifest = bundle(tmp_path / "b", heads=("Default",), own="Default")
    for name, changes, message in (
        ("cutoff", {"cutoff": 4.0}, "cutoff 4.0, and model.json says 3.5"),
        ("elements", {"z_table": [1, 6, 29]}, r"z_table \[1, 6, 29\]"),
        ("heads", {"heads": ["a", "b"], "e0_values": None}, "has 2 heads, and model.json names Default"),
    ):
        extra = {"heads": ("a", "b"), "own": "a"} if name == "heads" else {"heads": ("Default",), "own": "Default"}
        changes = {} if name == "heads" else changes
        other = bundle(tmp_path / name, **extra, **changes)
        with pytest.raises(InputError, match=message):
            load_model(manifest, weights=other.parent / "best_model.pt")


def test_weights_in_double_precision_stay_so(tmp_path):
    single = bundle(tmp_path / "single", heads=("Default",), own="Default")
    double = bundle(tmp_path / "double", heads=("Default",), own="Default", dtype="float64")
    weights = double.parent / "best_model.pt"
    assert load_model(single, weights=weights).dtype == torch.float64
    assert load_model(single).dtype == torch.float32


def test_read_run_gives_no_head(tmp_path):
    (tmp_path / "run.yaml").write_text(f"task: evaluate\nrun_dir: out\nmodel_in: {tmp_path}\ndata: {{test: x.xyz}}\n")
    assert read_run(tmp_path / "run.yaml").train.given_head is None


# ----- energies of free atoms in a fine-tuning


def shifted(labelled, shifts):
    return [replace(one, energy=one.energy + sum(shifts[int(z)] for z in one.structure.numbers)) for one in labelled]


@pytest.fixture(scope="module")
def fine_tuning(configure, small, tmp_path_factory):
    """``fine_tuning(name, train_labels, replay=None, **keys)``: what a fine-tuning begins with, its errors, its log."""
    folder = tmp_path_factory.mktemp("e0s")
    manifest = bundle(folder / "model", heads=("Default",), own="Default", dtype="float64")

    def made(name, labelled, replay=None, data=None, **keys):
        write_extxyz(folder / f"{name}.xyz", labelled)
        more = {}
        if replay is not None:
            write_extxyz(folder / f"{name}_replay.xyz", replay)
            more = {"replay": str(folder / f"{name}_replay.xyz")}
        files = {"train": str(folder / f"{name}.xyz"), "val": str(folder / f"{name}.xyz"), **more, **(data or {})}
        spec = configure(folder / name, task="finetune", model_in=str(manifest), data=files, train=keys)
        prepared = prepare(spec)
        errors = Trainer(spec, prepared, device="cpu").measure(prepared.validation)[0]
        return SimpleNamespace(architecture=prepared.architecture, mae=errors["energy_mae"], manifest=manifest)

    return made


@pytest.fixture(scope="module")
def labels_of_the_model(small, fine_tuning):
    """Structures with the very energies of the model that is fine-tuned, but for a scatter of 10 meV/atom."""
    structures = read_labelled(small / "train.xyz")
    manifest = fine_tuning("any", structures).manifest
    energies = [p.energy for p in load_model(manifest).predict([one.structure for one in structures])]
    noise = 0.01 * np.random.default_rng(5).normal(size=len(energies))
    return [
        replace(one, energy=e + n * len(one.structure)) for one, e, n in zip(structures, energies, noise, strict=True)
    ]


@pytest.mark.slow
def test_lstsq_counts_the_networks_cohesion_once(fine_tuning, labels_of_the_model, caplog):
    """The issue: the error jumped before the first step, since E0s were fitted as if there were no network."""
    plain = fine_tuning("plain", labels_of_the_model)
    fitted = fine_tuning("fitted", labels_of_the_model, e0s="lstsq")
    assert plain.mae < 1.0
    assert fitted.mae <= 1.05 * plain.mae
    own = plain.architecture.e0_table[0]
    assert fitted.architecture.e0_table[0] == pytest.approx(own, abs=0.5)


@pytest.mark.slow
def test_labels_of_another_code_are_said_and_lstsq_mends_them(fine_tuning, labels_of_the_model, caplog):
    other = shifted(labels_of_the_model, {1: -13.0, 8: 400.0, 29: -1500.0})
    with caplog.at_level(logging.INFO, "rlpath.training"):
        assert fine_tuning("other", other).mae > 1000
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "data.train: the energies of 8 labels are" in warning
    assert "other reference energies" in warning
    assert "train.e0s: lstsq" in warning
    assert "train.new_head" in warning
    caplog.clear()
    with caplog.at_level(logging.INFO, "rlpath.training"):
        mended = fine_tuning("mended", other, e0s="lstsq")
    assert mended.mae < 1.0
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    assert any("moves the energies of free atoms" in line for line in caplog.messages)


@pytest.mark.slow
def test_elements_that_the_data_lack_keep_theirs(fine_tuning, labels_of_the_model, caplog):
    """CO was 59 eV off: an element without data got 0."""
    without = [one for one in labels_of_the_model if not (one.structure.numbers == 1).any()]
    assert without
    with caplog.at_level(logging.INFO, "rlpath.training"):
        found = fine_tuning("lacking", shifted(without, {8: 3.0, 29: -7.0}), e0s="lstsq")
    assert found.architecture.e0_table[0][0] == E0S["omat_pbe"][0]
    assert any("H, which the data lack, keep theirs" in line for line in caplog.messages)


@pytest.mark.slow
def test_given_takes_input_json_in_a_fine_tuning_too(fine_tuning, labels_of_the_model, tmp_path):
    (tmp_path / "e0.json").write_text(json.dumps({**TINY, "z_table": [8, 29], "e0_values": [-70.0, -80.0]}))
    given = fine_tuning("given", labels_of_the_model, e0s="given", input_json=str(tmp_path / "e0.json"))
    assert given.architecture.e0_table[0].tolist() == [E0S["omat_pbe"][0], -70.0, -80.0]
    (tmp_path / "none.json").write_text(json.dumps(TINY))
    with pytest.raises(InputError, match=r"none.json: e0_values: is missing, and train\.e0s: given takes it"):
        fine_tuning("none", labels_of_the_model, e0s="given", input_json=str(tmp_path / "none.json"))


@pytest.mark.slow
def test_replayed_labels_of_other_references_are_said(fine_tuning, labels_of_the_model, caplog):
    other = shifted(labels_of_the_model, {1: -13.0, 8: 400.0, 29: -1500.0})
    with caplog.at_level(logging.INFO, "rlpath.training"):
        fine_tuning("mixed", other, replay=labels_of_the_model)
    said = {r.message.partition(":")[0]: r for r in caplog.records if r.message.startswith("data.")}
    assert said["data.train"].levelname == "WARNING"
    assert "data.replay has the model's, so keep both apart" in said["data.train"].message
    assert said["data.replay"].levelname == "INFO"
    caplog.clear()
    with caplog.at_level(logging.INFO, "rlpath.training"):
        apart = fine_tuning("apart", other, replay=labels_of_the_model, data={"replay_head": "Default"},
                            e0s="lstsq", new_head="mine")  # fmt: skip
    assert apart.mae < 1.0
    assert apart.architecture.e0_table[0].tolist() == E0S["omat_pbe"]
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.slow
def test_from_scratch_an_element_without_data_is_said(configure, small, tmp_path, caplog):
    value = {**TINY, "z_table": [1, 6, 8, 29]}
    for name, extra, line in (
        ("none", {}, "no structure holds C: the energies of these free atoms are 0 eV"),
        ("some", {"e0_values": [-1.0, -37.5, -2.0, -3.0]}, "are those of model.json"),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({**value, **extra}))
        with caplog.at_level(logging.INFO, "rlpath"):
            train_keys = {"input_json": str(tmp_path / f"{name}.json"), "e0s": "lstsq"}
            table = prepare(configure(tmp_path / name, train=train_keys)).architecture.e0_table[0]
        assert table[1] == (-37.5 if extra else 0.0)
        assert any(line in said for said in caplog.messages)


ONE_RUN = """
import hashlib, sys, torch
from rlpath_core.training import setup, train
from rlpath_core.training.options import read_run
if sys.argv[2] == "without":
    setup.with_free_atoms = lambda spec, model, *rest: model
state = torch.load(train(read_run(sys.argv[1])).manifest.parent / "best_model.pt", weights_only=True)
print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest())
"""


@pytest.mark.slow
def test_looking_at_the_labels_changes_no_bit_of_the_training(configure, tmp_path):
    manifest = bundle(tmp_path / "model", heads=("Default",), own="Default")
    found = []
    for how in ("with", "without"):
        configure(tmp_path / how, task="finetune", model_in=str(manifest))
        command = [sys.executable, "-W", "ignore", "-c", ONE_RUN, str(tmp_path / f"{how}.yaml"), how]
        found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    assert len(found[0]) == 64
    assert found[0] == found[1]
