"""The backends, by name. Nothing heavy is imported here, so that a config is checked where no backend is installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from rlpath_core.backends.fairchem import environment as fairchem
from rlpath_core.errors import InputError
from rlpath_core.registry import Registry


@dataclass(frozen=True)
class BackendEnvironment:
    """The Python environment that a backend needs.

    Parameters
    ----------
    distribution
        The distribution that must be installed: "mace-torch".
    setting
        Setting that names the Python of such an environment (rlpath_core/settings.py). None: only this Python will do.
    how_to_fix
        What to run if there is none.
    version
        The only version that works. None: any.
    """

    distribution: str
    setting: str | None = None
    how_to_fix: str = "install it"
    version: str | None = None


@dataclass(frozen=True)
class Backend:
    """A kind of model.

    Parameters
    ----------
    name
        As it stands in manifests and configs.
    environment
        Where it runs. Another environment's models run in a process there.
    model
        ``module:Name`` of the `Model` subclass. Its ``load`` is given the manifest's path, the checked manifest, and
        the keywords of `load_model` that apply.
    training_options
        ``module:Name`` of the section of run.yaml that its trainer takes. None: it cannot be trained.
    trainer
        ``module:Name`` of the function that trains it. None: it cannot be trained.
    trains_here
        Whether the trainer runs in this process, so that the backend has to be installed here.
    bundles
        Whether a model is a folder with a manifest.json. Otherwise a reference ``NAME:...`` names it, and the class
        has ``from_reference`` in place of ``load``.
    """

    name: str
    environment: BackendEnvironment
    model: str
    training_options: str | None = None
    trainer: str | None = None
    trains_here: bool = True
    bundles: bool = True


MACE = BackendEnvironment("mace-torch", "mace_python", "run `make setup` in a checkout")
FAIRCHEM = BackendEnvironment(fairchem.DISTRIBUTION, "fairchem_python", fairchem.MEND, version=fairchem.VERSION)

BACKENDS: Registry[Backend] = Registry("backend", "rlpath.backends")
BACKENDS.register("mace")(
    Backend(
        "mace",
        MACE,
        model="rlpath_core.backends.mace.model:MaceModel",
        training_options="rlpath_core.training.options:MaceTraining",
        trainer="rlpath_core.training.mace:train",
    )
)
for _name in fairchem.BACKENDS:
    BACKENDS.register(_name)(
        Backend(
            _name,
            FAIRCHEM,
            model="rlpath_core.backends.fairchem.model:FairChemModel",
            training_options="rlpath_core.training.fairchem.options:FairChemTraining",
            trainer="rlpath_core.training.fairchem.parent:train",
            trains_here=False,
        )
    )
BACKENDS.register("ase")(
    Backend("ase", BackendEnvironment("ase"), model="rlpath_core.backends.ase_calculator:AseModel", bundles=False)
)


def backend_of(name: str) -> Backend:
    """The backend of that name.

    Raises
    ------
    InputError
        No backend is called so, or its distribution does not load. A ``module:Name`` is never imported: a
        manifest.json from elsewhere may say anything.
    """
    if name not in BACKENDS:
        raise BACKENDS.unknown(name)
    backend = BACKENDS[name]
    if not isinstance(backend, Backend):
        raise InputError(f"backend {name!r} is a {type(backend).__name__}, not a rlpath_core.backends.registry.Backend")
    return backend


def named_backend(reference: str | Path) -> Backend | None:
    """The backend whose name begins the reference ``NAME:...``; None for a path.

    Naming such a model is trusting it: unlike a manifest, the reference says which code runs.
    """
    name, colon, _ = str(reference).partition(":")
    if not colon or name not in BACKENDS or (backend := backend_of(name)).bundles:
        return None
    return backend


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(str(BACKENDS.unknown(name)))
    return name


BackendName = Annotated[str, AfterValidator(_known)]
"""A field of a config: the name of a backend. Checking it imports none."""
