"""What FairChem is told: its configuration read, checked and completed, where fairchem itself is not installed."""

import json
from pathlib import Path

import pytest
import yaml

from rlpath_core.errors import InputError
from rlpath_core.training import train
from rlpath_core.training.fairchem.config import complete, first_difference, read_config, split_arguments
from rlpath_core.training.options import read_run

CONFIGS = Path(__file__).parents[3] / "configs" / "fairchem"
BACKENDS = ("equiformer_v2", "gemnet_oc")


@pytest.fixture
def run_yaml(small, tmp_path):
    """A run.yaml with this FairChem configuration; keys given are laid over it."""

    def made(config, backend="equiformer_v2", **parts):
        (tmp_path / "fairchem.yml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
        value = {
            "backend": backend, "task": "train", "run_dir": str(tmp_path / "run"), "device": "cpu", **parts,
            "data": {"train": str(small / "train.xyz"), "val": str(small / "val.xyz"), **parts.get("data", {})},
            "train": {"config_yml": "fairchem.yml", **parts.get("train", {})},
        }  # fmt: skip
        (tmp_path / "run.yaml").write_text(json.dumps(value))
        return read_run(tmp_path / "run.yaml")

    return made


def given(backend="equiformer_v2", **sections):
    return read_config(CONFIGS / f"{backend}.yml") | sections


def test_includes_are_merged_as_fairchem_does(tmp_path):
    (tmp_path / "base.yml").write_text("optim: {lr_initial: 1, batch_size: 2}\ntrainer: ocp\n")
    (tmp_path / "more.yml").write_text("optim: {max_epochs: 3}\n")
    (tmp_path / "top.yml").write_text("includes: [base.yml, more.yml]\noptim: {lr_initial: 5}\n")
    assert read_config(tmp_path / "top.yml") == {
        "optim": {"lr_initial": 5, "batch_size": 2, "max_epochs": 3}, "trainer": "ocp",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("includes: [none.yml]", r"top.yml: includes: no such file: .*none.yml"),
        ("includes: [top.yml]", r"top.yml: includes: includes itself"),
        ("includes: base.yml", r"top.yml: includes: expected a list of file names"),
        ("includes: [base.yml, other.yml]", r"two of its files say different things of optim.lr_initial"),
        ("optim: {a: 1}\noptim: {a: 2}", r"top.yml: line 2: not YAML: 'optim' is there twice"),
        ("a: !!python/object/apply:os.system [touch ran]", r"top.yml: line 1: not YAML: could not determine a constr"),
        ("[1, 2]", "top.yml: expected a mapping"),
        ("a: [", "top.yml: line 1: not YAML"),
    ],
)
def test_wrong_files(tmp_path, monkeypatch, text, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yml").write_text("optim: {lr_initial: 1}")
    (tmp_path / "other.yml").write_text("optim: {lr_initial: 2}")
    (tmp_path / "top.yml").write_text(text)
    with pytest.raises(InputError, match=error):
        read_config(tmp_path / "top.yml")
    assert not (tmp_path / "ran").exists()


def test_arguments_are_fairchems_own():
    found, flags = split_arguments(
        ["--optim.max_epochs=20", "--amp", "--model.backbone.lmax_list=[2]", "--trainer=ocp"]
    )
    assert found == {"optim": {"max_epochs": 20}, "model": {"backbone": {"lmax_list": [2]}}, "trainer": "ocp"}
    assert flags == ["--amp"]
    assert split_arguments(["--print-every", "5", "--print-every=7"])[1] == ["--print-every", "5", "--print-every", "7"]
    for word, error in (
        ("--optim.max_epochs", "expected --section.key=value"),
        ("--otpim.max_epochs=3", "no such section. Did you mean 'optim'"),
        ("--seed=3", "--seed is said by train.seed"),
        ("--checkpoint", "--checkpoint is said by model_in"),
        ("--submit", "expected --section.key=value"),
        ("--print-every", "--print-every takes a value"),
    ):
        with pytest.raises(InputError, match=f"backend_args: .*{error}"):
            split_arguments([word])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_shipped_configurations(run_yaml, backend, small):
    """What a run.yaml decides is filled in; references and normalisers are fitted, those of a conservative network
    with one scale for energy and forces."""
    spec = run_yaml(given(backend), backend, backend_args=["--optim.max_epochs=7"], train={"log_every": 3})
    config, flags = complete(spec)
    assert flags == ["--print-every", "3"]
    assert config["optim"]["max_epochs"] == 7
    assert config["optim"]["num_workers"] == 0
    assert config["model"]["otf_graph"] is config["model"]["backbone"]["otf_graph"] is True
    train, val = config["dataset"]["train"], config["dataset"]["val"]
    assert (train["format"], train["src"], val["src"]) == ("rlpath", str(small / "train.xyz"), str(small / "val.xyz"))
    assert train["transforms"]["element_references"]["fit"]["targets"] == ["energy"]
    assert set(train["transforms"]["normalizer"]["fit"]["targets"]) == {"energy", "forces"}
    assert config["task"].get("tie_normalizers", False) is (backend == "gemnet_oc")
    assert config["logger"] == {"name": "rlpath"}
    assert train["n_elements"] == (90 if backend == "equiformer_v2" else 84)
    assert yaml.safe_load(yaml.safe_dump(config)) == config


def test_a_configuration_of_a_network_and_an_optimizer_is_enough(run_yaml):
    whole = given()
    config, _ = complete(
        run_yaml({"model": whole["model"], "optim": {"batch_size": 4, "max_epochs": 2, "lr_initial": 0.1}})
    )
    assert [list(one) for one in config["loss_functions"]] == [["energy"], ["forces"]]
    assert config["evaluation_metrics"]["primary_metric"] == "forces_mae"
    assert set(config["outputs"]) == {"energy", "forces"}
    assert (config["trainer"], config["optim"]["scheduler"]) == ("ocp", "Null")


def test_own_transforms_stay_and_files_are_numbers(run_yaml, tmp_path):
    (tmp_path / "refs.npz").touch()
    own = {
        "normalizer": {"energy": {"mean": 0.0, "rmsd": 2.0}, "forces": {"mean": 0.0, "rmsd": 2.0}},
        "element_references": {"energy": {"file": "refs.npz"}},
    }
    config, _ = complete(run_yaml(given(dataset={"train": {"src": "/elsewhere", "transforms": own}})))
    found = config["dataset"]["train"]["transforms"]
    assert found["normalizer"] == own["normalizer"]
    assert found["element_references"]["energy"]["file"] == str(tmp_path / "refs.npz")
    for name, error in (("refs.pt", r"expected a .npz file, got refs.pt"), ("no.npz", "no such file: .*no.npz")):
        own["element_references"]["energy"]["file"] = name
        with pytest.raises(InputError, match=error):
            complete(run_yaml(given(dataset={"train": {"transforms": own}})))


def test_energy_loss_per_atom_or_configuration(run_yaml):
    for per, name in ((None, "per_atom_mae"), ("atom", "per_atom_mae"), ("configuration", "mae")):
        config, _ = complete(run_yaml(given(), train={} if per is None else {"energy_loss_per": per}))
        assert config["loss_functions"][0]["energy"]["fn"] == name
    losses = [{"energy": {"fn": "mse", "coefficient": 1}}, {"forces": {"fn": "l2mae", "coefficient": 1}}]
    assert complete(run_yaml(given(loss_functions=losses)))[0]["loss_functions"] == losses
    with pytest.raises(InputError, match=r"train.energy_loss_per: FairChem has no mse per atom: choose mae"):
        complete(run_yaml(given(loss_functions=losses), train={"energy_loss_per": "atom"}))


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"model": None}, r"fairchem.yml: model: missing"),
        ({"model": {"name": "os.system"}}, r"fairchem.yml: .*no network is called 'os.system'"),
        ({"model": {"name": "gemnet_co"}}, r"no network is called 'gemnet_co'. Did you mean 'gemnet_oc'"),
        (
            {"model": {"name": "gemnet_oc"}},
            r"model.name: is a network of backend gemnet_oc, and the run is of equiform",
        ),
        ({"trainer": "os.system"}, r"fairchem.yml: trainer: choose one of ocp, forces, equiformerv2_forces"),
        ({"optim": {"batch_size": 2, "lr_initial": 1.0}}, r"fairchem.yml: optim.max_epochs: expected a number above 0"),
        (
            {"optim": {"batch_size": 0, "lr_initial": 1.0, "max_epochs": 1}},
            r"optim.batch_size: expected a number above 0",
        ),
        ({"otpim": {}}, r"fairchem.yml: otpim: unknown section. Did you mean 'optim'"),
        ({"loss_functions": [{"energy": {"fn": "os.system"}}]}, r"loss_functions: expected a list of"),
        ({"outputs": {"stress": {}}}, r"outputs: expected energy and forces, got stress"),
        (
            {"evaluation_metrics": {"metrics": {"energy": ["__import__('os').system('touch ran')"]}}},
            r"evaluation_metrics.metrics.energy: not a list of names",
        ),
        (
            {"dataset": {"train": {"transforms": {"print": {}}}}},
            r"dataset.train.transforms.print: choose of normalizer, element_references",
        ),
        ({"dataset": {"train": {"lin_ref": "a.npz"}}}, r"dataset.lin_ref: FairChem opens it as a pickle"),
    ],
)
def test_nothing_that_fairchem_would_run_or_not_find_is_passed_on(run_yaml, sections, error):
    config = {key: value for key, value in (given() | sections).items() if value is not None}
    with pytest.raises(InputError, match=error):
        train(run_yaml(config))


def test_a_fine_tuned_network_is_the_models_own(run_yaml):
    network = given()["model"]
    spec = run_yaml(given())
    fitted, _ = complete(spec, network, "fitted")
    fits = [what["fit"] for what in fitted["dataset"]["train"]["transforms"].values()]
    assert [fit["fitted"] for fit in fits] == [True, True]
    assert first_difference(fitted, complete(spec)[0]) is None
    config, _ = complete(spec, network, "model")
    assert config["dataset"]["train"]["transforms"] == {}
    assert first_difference(fitted, config) == "dataset.train.transforms.element_references"
    without = {key: value for key, value in given().items() if key != "model"}
    assert complete(run_yaml(without), network)[0]["model"] == config["model"]
    network["backbone"]["num_layers"] = 5
    with pytest.raises(InputError, match=r"model.backbone.num_layers: differs from the model that is trained on"):
        complete(run_yaml(given()), network)


@pytest.mark.parametrize(
    ("section", "key", "value", "error"),
    [
        ("train", "epochs", 3, r"train.epochs: belongs to mace; FairChem has optim.max_epochs"),
        ("train", "input_json", "model.json", r"train.input_json: belongs to mace; FairChem has train.config_yml"),
        ("train", "freeze", "head_only", r"train.freeze: belongs to mace; FairChem has no such key"),
        ("data", "cache", "folder", r"data.cache: belongs to mace"),
        ("train", "config_yml", None, r"train.config_yml: task train needs a FairChem configuration"),
    ],
)
def test_keys_of_mace_are_errors_for_fairchem(run_yaml, section, key, value, error):
    with pytest.raises(InputError, match=error):
        run_yaml(given(), **{section: {key: value}})


def test_missing_files_are_said_before_anything_is_written(run_yaml, tmp_path):
    spec = run_yaml(given())
    (tmp_path / "fairchem.yml").unlink()
    with pytest.raises(InputError, match=r"fairchem.yml: train.config_yml: no such file"):
        train(spec)
    with pytest.raises(InputError, match=r"nowhere.lmdb: data.val: no such file or folder"):
        train(run_yaml(given(), data={"val": "nowhere.lmdb"}))
    with pytest.raises(InputError, match=r"backend_python: no such Python for equiformer_v2: /nowhere"):
        train(run_yaml(given(), backend_python="/nowhere"))
    assert not (tmp_path / "run").exists()
