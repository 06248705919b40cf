"""The process of a ``RemoteModel``: it loads one model, then predicts with it."""

from __future__ import annotations

from typing import Any

from rlpath_core.backends.base import Model
from rlpath_core.backends.remote import pack_predictions, unpack_structures
from rlpath_core.process.wire import Arrays
from rlpath_core.process.worker import Call, serve

_models: list[Model] = []


def load(call: Call) -> dict[str, Any]:
    """Load the bundle ``manifest`` and describe the model."""
    from rlpath_core.backends import load_local

    if call.header["threads"] is not None:
        import torch

        torch.set_num_threads(call.header["threads"])
    model = load_local(call.header["manifest"], **call.header["options"])
    _models[:] = [model]
    return describe(model)


def describe(model: Model) -> dict[str, Any]:
    """The attributes of a ``Model``, for the ``RemoteModel`` that represents it."""
    return {
        "digest": model.digest,
        "elements": sorted(model.elements),
        "device": model.device,
        "conservative": model.conservative,
        "has_embeddings": model.has_embeddings,
        "head": model.head,
        "implementation": model.implementation,
        "backend": model.backend,
        "weights_sha256": model.weights_sha256,
    }


def predict(call: Call) -> tuple[dict[str, Any], Arrays]:
    """Predict for the structures in the arrays."""
    (model,) = _models
    return {}, pack_predictions(model.predict(unpack_structures(call.arrays), **call.header))


if __name__ == "__main__":
    serve({"load": load, "predict": predict})
