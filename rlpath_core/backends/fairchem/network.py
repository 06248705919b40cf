"""FairChem's networks built from model.json, filled with weights, and fed with graphs made here.

What is changed is changed on the instance alone; FairChem's classes stay as they are:
- the graph comes from ``graph.py`` (same edges as FairChem's own on-the-fly graph, found in linear time in float64);
- EquiformerV2 turns every edge into a frame of its own and draws the angle about the edge at random at each call; here
  it follows from the edge's direction, so that the same structure has the same energy every time, in any batch;
- GemNet-OC's gradient is taken once, without a graph for a second derivative.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from rlpath_core.backends.fairchem import shims
from rlpath_core.backends.fairchem.architecture import BACKBONES, FORCES_ONLY, HEADS, HYDRA, NETWORKS, UNUSED, Network
from rlpath_core.errors import InputError


def _class_of(place: str) -> type[torch.nn.Module]:
    shims.provide()
    module, _, name = place.partition(":")
    found: type[torch.nn.Module] = getattr(importlib.import_module(module), name)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """FairChem warns through the root logger (which sets up logging where nobody did) of names that are out of date."""

    def errors_only(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    root.addFilter(errors_only)
    try:
        yield
    finally:
        root.removeFilter(errors_only)
        root.removeHandler(silent)


def _checked(place: str, arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The arguments that the class takes. Those that FairChem itself ignores are left out, others are an error."""
    signature = inspect.signature(_class_of(place).__init__).parameters
    ignores = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.values())
    unknown = sorted(set(arguments) - set(signature))
    if unknown and not ignores:
        raise InputError(f"unknown arguments: {', '.join(unknown)}", "model.json", key)
    missing = [
        name
        for name, p in signature.items()
        if p.default is inspect.Parameter.empty
        and p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        and name not in ("self", "backbone", *arguments)
    ]
    if missing:
        raise InputError(f"lacks {', '.join(missing)}", "model.json", key)
    return {name: value for name, value in arguments.items() if name in signature}


def build(network: Network, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.nn.Module:
    """The network with fresh weights; InputError where FairChem cannot build it."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if network.name != HYDRA:
                place = NETWORKS[network.name][1]
                net = _class_of(place)(**_checked(place, network.arguments, "arguments"))
            else:
                net = _hydra(network)
        except (ValueError, TypeError, AssertionError, AttributeError, KeyError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"fairchem cannot build this network ({type(error).__name__}: {error})", "model.json"
            ) from error
    return net.to(dtype)


def _hydra(network: Network) -> torch.nn.Module:
    """FairChem's hydra looks its parts up in its registry: all of them are checked and imported before."""
    backbone = dict(network.backbone)
    model = backbone.pop("model")
    place = BACKBONES[model][1]
    heads = {}
    for name, head in network.arguments["heads"].items():
        rest = {k: v for k, v in head.items() if k != "module"}
        heads[name] = {"module": head["module"], **_checked(HEADS[head["module"]][1], rest, f"heads.{name}")}
    arguments = {k: v for k, v in network.arguments.items() if k not in ("backbone", "heads", "finetune_config")}
    backbone = {"model": model, **_checked(place, backbone, "backbone")}
    hydra = "fairchem.core.models.base:HydraModel"
    return _class_of(hydra)(backbone=backbone, heads=heads, **_checked(hydra, arguments, "arguments"))


def scale_factors(net: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """GemNet-OC's scale factors by their place in the network."""
    from fairchem.core.modules.scaling.scale_factor import ScaleFactor

    return {name: module for name, module in net.named_modules() if isinstance(module, ScaleFactor)}


def restore(
    network: Network,
    state: Mapping[str, torch.Tensor],
    dtype: torch.dtype = torch.float32,
    scales: Mapping[str, Any] | None = None,
) -> torch.nn.Module:
    """The network with the weights of ``state``; InputError where names or shapes do not fit.

    scales  values of scale factors by name, for checkpoints of before they were in the state_dict
    """
    net = build(network, dtype)
    try:
        keys = net.load_state_dict(dict(state), strict=False)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the weights do not fit the network: {' '.join(str(error).split())[:300]}") from error
    own = tuple(scale_factors(net))

    def of_scale(key: str) -> bool:
        return key.rpartition(".")[0].startswith(own) if own else False

    lacking = [key for key in keys.missing_keys if not of_scale(key)]
    surplus = [key for key in keys.unexpected_keys if not of_scale(key)]
    if lacking or surplus:
        parts = [
            f"{len(lost)} {what}, such as {lost[0]}"
            for what, lost in (("lack", lacking), ("too many", surplus))
            if lost
        ]
        raise InputError(f"the weights do not fit the network: {'; '.join(parts)}")
    if scales:
        from fairchem.core.modules.scaling.compat import load_scales_compat

        try:
            with quiet():
                load_scales_compat(net, dict(scales))
        except ValueError as error:
            raise InputError(f"the scale factors do not fit the network: {str(error)[:300]}") from error
    return net


def backbone_of(net: torch.nn.Module, network: Network) -> torch.nn.Module:
    found = net.backbone if network.name == HYDRA else net
    assert isinstance(found, torch.nn.Module)
    return found


def bytes_per_edge(network: Network) -> int:
    """About what a forward keeps for an edge: rotated messages, or embeddings of edges and of their triplets."""
    given = network.backbone
    if network.backend == "equiformer_v2":
        return int(48 * given.get("sphere_channels", 128) * (max(given.get("lmax_list") or [6]) + 1) ** 2)
    neighbours = min(int(given.get("max_neighbors", 50)), 50)
    return int(160 * given["emb_size_edge"] + 16 * neighbours * given["emb_size_trip_in"])


def edge_frames(vectors: torch.Tensor) -> torch.Tensor:
    """Rotations [n_edges, 3, 3] that turn each edge onto the y axis, as FairChem's ``init_edge_rot_mat`` gives them.

    The free angle about the edge is fixed by the cartesian axis that is farthest from the edge.
    """
    along = vectors / vectors.norm(dim=1, keepdim=True)
    reference = torch.nn.functional.one_hot(along.abs().argmin(dim=1), 3).to(along)
    z = torch.linalg.cross(along, reference)
    z = z / z.norm(dim=1, keepdim=True)
    y = torch.linalg.cross(along, z)
    y = y / y.norm(dim=1, keepdim=True)
    return torch.stack((z, along, -y), dim=1).detach()


class Double(torch.Tensor):
    """GemNet-OC ends in single precision whatever it was given (``x.float()``); a network in float64 stays in it."""

    def float(self, *_: Any, **__: Any) -> Double:
        return self


def _kept_double(value: Any) -> Any:
    return value.as_subclass(Double) if isinstance(value, torch.Tensor) else value


class _Gradient:
    """FairChem's ForceScaler without its graph of second derivatives; its scaling by a power of two cancels."""

    def calc_forces_and_update(self, energy: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return -torch.autograd.grad(energy.sum(), positions)[0]


class Runner:
    """One network and what its forward leaves behind; a thread has its own (the weights are shared)."""

    def __init__(self, net: torch.nn.Module, network: Network) -> None:
        self.net, self.network = net, network
        self.backbone = backbone_of(net, network)
        self.kept: list[torch.Tensor] = []
        """The invariant features of the atoms, of the forward that is under way."""
        parts: Any = self.backbone
        parts.otf_graph = True  # an argument of GemNet-OC's: no further selection of edges
        parts.generate_graph = types.MethodType(lambda own, data, *_, **__: data.graph(), parts)
        if network.backend == "equiformer_v2":
            parts._init_edge_rot_mat = lambda data, index, vectors: edge_frames(vectors)
            parts.norm.register_forward_hook(lambda module, given, out: self.kept.append(out[:, 0]))
        else:
            parts.int_blocks[-1].register_forward_hook(lambda module, given, out: self.kept.append(out[0]))
            if next(net.parameters()).dtype == torch.float64:
                for block in parts.out_blocks:
                    block.register_forward_hook(lambda module, given, out: tuple(_kept_double(x) for x in out))
        for module in net.modules():
            if hasattr(module, "force_scaler"):
                module.force_scaler = _Gradient()  # type: ignore[assignment]
            if getattr(module, "activation_checkpoint", None):
                module.activation_checkpoint = False  # type: ignore[assignment]

    def __call__(self, data: Any, forces: bool) -> dict[str, Any]:
        """What the network puts out, by name; hydra's parts by head."""
        self.kept.clear()
        network, net = self.network, self.net
        if network.conservative or network.name != HYDRA:  # elsewhere a head of its own is left out
            for module in (self.backbone, *getattr(net, "output_heads", {}).values()):
                if hasattr(module, "regress_forces"):
                    module.regress_forces = forces
        if network.name != HYDRA:
            out: dict[str, Any] = net(data)
            return out
        embedding = self.backbone(data)
        out = {}
        for name, head in net.output_heads.items():  # type: ignore[union-attr, operator]
            module = network.arguments["heads"][name]["module"]
            if module in UNUSED or (module in FORCES_ONLY and not forces):
                continue
            with torch.autocast(data.pos.device.type, enabled=head.use_amp):
                found = head(data, embedding)
            if network.arguments.get("pass_through_head_outputs"):
                out.update(found)
            else:
                out[name] = found
        return out
