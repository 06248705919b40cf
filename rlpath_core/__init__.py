"""Active learning of interatomic potentials along reaction paths on surfaces.

The names below are the public interface; each loads when it is first used, so that ``import rlpath_core`` is cheap.
Prefect is never imported here, and torch only once a model needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.backends import Model, Prediction, load_model
    from rlpath_core.campaign import Campaign, open_campaign
    from rlpath_core.dft import label
    from rlpath_core.evaluation import evaluate
    from rlpath_core.outbox import process_outbox
    from rlpath_core.sampling import sample
    from rlpath_core.store import Store
    from rlpath_core.structure import Structure, read_structure, read_structures
    from rlpath_core.training import train

__version__ = "0.2.0"

__all__ = [
    "Campaign",
    "Model",
    "Prediction",
    "Store",
    "Structure",
    "evaluate",
    "label",
    "load_model",
    "open_campaign",
    "process_outbox",
    "read_structure",
    "read_structures",
    "sample",
    "train",
]

__getattr__ = loader(
    __name__,
    {
        "Campaign": "campaign",
        "Model": "backends",
        "Prediction": "backends",
        "Store": "store",
        "Structure": "structure",
        "evaluate": "evaluation",
        "label": "dft",
        "load_model": "backends",
        "open_campaign": "campaign",
        "process_outbox": "outbox",
        "read_structure": "structure",
        "read_structures": "structure",
        "sample": "sampling",
        "train": "training",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
