"""What needs FairChem itself: `.venv-fairchem/bin/python -m pytest tests/fairchem`, which `make test` runs."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = find_spec("fairchem") is not None
if HERE:
    from rlpath_core.backends.fairchem.shims import provide

    provide()


class Elsewhere(pytest.Module):
    """A file for the other environment: one skip that says so; nothing of it is imported."""

    def collect(self):
        pytest.skip(
            "fairchem-core is not here: `make fairchem`, .venv-fairchem/bin/python -m pytest tests/fairchem",
            allow_module_level=True,
        )


def pytest_pycollect_makemodule(module_path: Path, parent):
    return None if HERE else Elsewhere.from_parent(parent, path=module_path)


EQUIFORMER = {
    "num_layers": 2,
    "sphere_channels": 8,
    "attn_hidden_channels": 8,
    "num_heads": 2,
    "attn_alpha_channels": 4,
    "attn_value_channels": 4,
    "ffn_hidden_channels": 8,
    "lmax_list": [2],
    "mmax_list": [2],
    "grid_resolution": 18,
    "edge_channels": 8,
    "max_radius": 5.0,
    "max_neighbors": 200,
    "alpha_drop": 0.1,
    "drop_path_rate": 0.05,
}
GEMNET = {
    **{f"emb_size_{part}": 8 for part in ("atom", "edge", "trip_in", "trip_out", "quad_in", "quad_out", "aint_in")},
    **{f"emb_size_{part}": 8 for part in ("aint_out", "rbf", "cbf", "sbf")},
    **{f"num_{part}": 1 for part in ("before_skip", "after_skip", "concat", "atom", "output_afteratom")},
    "num_spherical": 4,
    "num_radial": 8,
    "num_blocks": 2,
    "cutoff": 4.5,
    "max_neighbors": 200,
    "rbf": {"name": "gaussian"},
    "envelope": {"name": "polynomial", "exponent": 5},
    "cbf": {"name": "spherical_harmonics"},
    "sbf": {"name": "legendre_outer"},
    "otf_graph": True,
}
ALL_INTERACTIONS = {
    "cutoff_qint": 3.0,
    "cutoff_aeaint": 4.5,
    "cutoff_aint": 6.0,
    **{f"{kind}_interaction": True for kind in ("quad", "atom_edge", "edge_atom", "atom")},
}
NETWORKS = {
    "eqv2": {
        "name": "hydra",
        "backbone": {"model": "equiformer_v2_backbone", **EQUIFORMER},
        "heads": {
            "energy": {"module": "equiformerV2_scalar_head"},
            "forces": {"module": "equiformerV2_vector_head"},
        },
    },
    "eqv2-old": {"name": "equiformer_v2", **EQUIFORMER},
    "eqv2-few-neighbours": {"name": "equiformer_v2", **EQUIFORMER, "max_neighbors": 12},
    "gemnet": {"name": "gemnet_oc", **GEMNET},
    "gemnet-direct": {"name": "gemnet_oc", **GEMNET, "direct_forces": True, "forces_coupled": True},
    "gemnet-hydra": {
        "name": "hydra",
        "pass_through_head_outputs": True,
        "backbone": {"model": "gemnet_oc_backbone", **GEMNET, **ALL_INTERACTIONS},
        "heads": {"both": {"module": "gemnet_oc_energy_and_grad_force_head", "num_global_out_layers": 2}},
    },
    "gemnet-all": {"name": "gemnet_oc", **GEMNET, **ALL_INTERACTIONS},
}


def trainer_of(name, folder, seed=1, **optim):
    """FairChem's own trainer with a fresh network, and numbers in everything that a checkpoint carries."""
    import torch
    from fairchem.core.common.utils import setup_imports
    from fairchem.core.modules.normalization.element_references import LinearReferences
    from fairchem.core.modules.normalization.normalizer import create_normalizer
    from fairchem.core.modules.scaling.scale_factor import ScaleFactor
    from fairchem.core.trainers import OCPTrainer

    setup_imports()
    trainer = OCPTrainer(
        task={},
        model=NETWORKS[name],
        outputs={
            "energy": {"level": "system", "property": "energy"},
            "forces": {"level": "atom", "property": "forces"},
        },
        dataset={},
        optimizer={"lr_initial": 1e-3, "scheduler": "Null", "max_epochs": 1, "num_workers": 0, **optim},
        loss_functions=[{"energy": {"fn": "mae", "coefficient": 1}}, {"forces": {"fn": "l2mae", "coefficient": 1}}],
        evaluation_metrics={},
        identifier="test",
        local_rank=0,
        run_dir=str(folder),
        seed=seed,
        logger="tensorboard",
        cpu=True,
    )
    trainer.config["dataset"] = {"src": "nowhere", "format": "lmdb"}
    trainer.normalizers = {
        # a mean is added per structure, whatever its size: twice the cell would not have twice the energy
        "energy": create_normalizer(mean=0.0, rmsd=2.9),
        "forces": create_normalizer(mean=0.0, rmsd=2.9),
    }
    references = torch.zeros(119)
    references[[1, 8, 12, 29]] = torch.tensor([-13.1, -100.2, -20.5, -3.3])
    trainer.elementrefs = {"energy": LinearReferences(references)}
    scales = [module for module in trainer.model.modules() if isinstance(module, ScaleFactor)]
    for n, module in enumerate(scales):
        module.set_(0.7 + 0.01 * n)
    return trainer


@pytest.fixture
def make_trainer():
    return trainer_of


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """``saved(name)``: the checkpoint of a network of NETWORKS, as FairChem's own trainer saves its best one."""
    done = {}

    def save(name: str) -> Path:
        if name not in done:
            trainer = trainer_of(name, tmp_path_factory.mktemp(name))
            done[name] = Path(trainer.save(checkpoint_file="best_checkpoint.pt", training_state=False))
        return done[name]

    return save


@pytest.fixture(scope="session")
def bundled(saved, tmp_path_factory):
    """``bundled(name)``: the manifest of its bundle."""
    from rlpath_core.backends.fairchem.bundle import export_checkpoint

    done = {}

    def export(name: str) -> Path:
        if name not in done:
            backend = "equiformer_v2" if name.startswith("eqv2") else "gemnet_oc"
            done[name] = export_checkpoint(saved(name), tmp_path_factory.mktemp("bundle"), backend=backend)[0]
        return done[name]

    return export


@pytest.fixture(scope="session")
def loaded(bundled):
    """``loaded(name, dtype)``: its model, for tests that do not change it."""
    from rlpath_core.backends import load_model

    done = {}

    def load(name: str, dtype: str | None = None):
        if (name, dtype) not in done:
            done[name, dtype] = load_model(bundled(name), dtype=dtype)
        return done[name, dtype]

    return load


ROOT = Path(__file__).parents[2]
OC22 = ROOT / "tests" / "data" / "oc22_emt"
TINY_NETWORKS = {
    "equiformer_v2": {
        "num_layers": 1, "sphere_channels": 8, "attn_hidden_channels": 8, "attn_alpha_channels": 4, "lmax_list": [1],
        "attn_value_channels": 4, "ffn_hidden_channels": 8, "edge_channels": 8, "num_heads": 2, "mmax_list": [1],
        "max_radius": 4.0, "alpha_drop": 0.1, "drop_path_rate": 0.1,
    },
    "gemnet_oc": {
        "num_blocks": 1, "num_radial": 8, "num_spherical": 3, "cutoff": 4.0, "cutoff_qint": 4.0, "cutoff_aeaint": 4.0,
        "cutoff_aint": 4.0, "quad_interaction": True, "emb_size_atom": 8, "emb_size_edge": 8,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def lmdb(tmp_path_factory):
    """Our own LMDBs: 8 structures to train on and 4 to validate."""
    from rlpath_core.data import S2EFWriter, read_labelled

    folder = tmp_path_factory.mktemp("lmdb")
    for name, labelled in (("train", read_labelled(OC22 / "train")[:8]), ("val", read_labelled(OC22 / "val.lmdb")[:4])):
        with S2EFWriter(folder / f"{name}.lmdb") as writer:
            for n, one in enumerate(labelled):
                writer.add(one, str(n))
    return folder


def configuring_in(folder, lmdb):
    """A function that writes the run.yaml of a tiny network in ``folder/name``; sections given are laid over it."""
    import yaml

    from rlpath_core.config import merge
    from rlpath_core.training.fairchem.config import read_config

    def made(name, backend="equiformer_v2", optim=None, network=None, config=None, **parts):
        given = read_config(ROOT / "configs" / "fairchem" / f"{backend}.yml")
        given["model"]["backbone"] |= TINY_NETWORKS[backend] | (network or {})
        given["optim"] |= {"batch_size": 2, "max_epochs": 3, "ema_decay": 0.9} | (optim or {})
        (folder / f"{name}.yml").write_text(yaml.safe_dump(merge(given, config or {})))
        value = {
            "backend": backend, "task": "train", "run_dir": str(folder / name), "device": "cpu",
            "data": {"train": str(lmdb / "train.lmdb"), "val": str(lmdb / "val.lmdb")},
            "train": {"config_yml": str(folder / f"{name}.yml"), "log_every": 1, "progress_bar": False},
        }  # fmt: skip
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(merge(value, parts)))
        return path

    return made


@pytest.fixture(scope="session")
def configuring():
    return configuring_in


@pytest.fixture
def configure(lmdb, tmp_path):
    return configuring_in(tmp_path, lmdb)
