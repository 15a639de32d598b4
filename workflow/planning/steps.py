"""Operations per image and GPU memory of the training of a student or teacher.

Counts operations and memory of a network on the meta device, without weights or computation.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from sida.assets.cache import cache_dir
from sida.config.families import NULL_LABEL
from sida.config.settings import names_object
from sida.errors import UserError, reason_of, say
from sida.files.atomic import write_json
from sida.files.text_files import parse_json, read_text
from sida.machine import source_digest
from sida.methods.registry import find_method

#: Number of images in a count: a prime unlike any width or kernel size, which identifies sizes that grow with images.
IMAGES = 11


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """Cost of a network for one image; 2 operations per multiply-add.

    A backward pass to weights and inputs takes twice the operations of the forward pass; a backward pass to the inputs
    alone (through frozen weights) takes as many as the forward pass.

    Attributes:
        parameters: Number of learnt parameters.
        forward: Operations of an evaluation.
        encoder: Operations of the encoder, which is the discriminator.
        kept: Bytes kept for a backward pass to all weights, in float32.
        kept_frozen: Bytes kept for a backward pass to the inputs alone.
        kept_once: Bytes kept independent of the number of images (scaled weights).
    """

    parameters: int
    forward: float
    encoder: float
    kept: float
    kept_frozen: float
    kept_once: float


def network_cost(network: Mapping[str, Any]) -> NetworkCost:
    """Counts a network.

    Args:
        network: ``{class, kwargs}``, see :func:`sida.networks.build_network`.
    """
    # Dropout is negligible.
    kwargs = {key: value for key, value in network["kwargs"].items() if key != "dropout"}
    source: Mapping[str, Any] = {}
    if names_object(network["class"]):
        from sida.training.run_folder import class_source

        source = class_source(network, "network")
    return _counted(json.dumps({**network, "kwargs": kwargs, **source}, sort_keys=True))


@functools.cache
def _counted(text: str) -> NetworkCost:
    """Counts for a network's description, cached on disk, since counting a large network takes seconds."""
    digest = hashlib.sha256(f"{source_digest()} {version('torch')} {text}".encode()).hexdigest()
    path = cache_dir() / "counts" / f"{digest[:32]}.json"
    with contextlib.suppress(UserError, TypeError):
        return NetworkCost(**parse_json(read_text(path), str(path)))
    cost = _count(text)
    # A cache of another user may be read-only.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(cost))
    return cost


#: Seconds of counting after which a line names the network.
PATIENCE = 5.0


@functools.cache
def _first_count() -> float:
    return time.monotonic()


def _count(text: str) -> NetworkCost:
    from sida.networks import family_of
    from sida.networks.file import build_on_meta

    network = json.loads(text)
    network.pop("source_sha256", None)
    name, size = network["class"], network["kwargs"].get("img_resolution", "?")
    net: Any = build_on_meta(network, "plan").to("meta")
    parameters = sum(parameter.numel() for parameter in net.parameters())
    if time.monotonic() - _first_count() >= PATIENCE:
        say(f"[plan] counting operations and memory of {name}, {size}×{size}, {parameters / 1e6:.3g} M parameters")
    if family_of(net).weight_norm:
        # Storing normalised weights takes time and does not count.
        net.weight_norm = "off"
    try:
        forward, kept_bytes, once = _evaluate(net)
        net.requires_grad_(False)
        _, frozen, _ = _evaluate(net)
        encoder, _, _ = _evaluate(net, "encoder")
    except Exception as error:  # of torch, in a custom class
        remedy = "let its evaluation read no values of tensors, and keep constants as buffers"
        raise UserError("plan", f"the operations of {name} cannot be counted ({reason_of(error)})", remedy) from None
    return NetworkCost(parameters, forward, encoder, kept_bytes, frozen, once)


def _evaluate(net: Any, part: str = "decoder") -> tuple[float, float, float]:
    """Operations and kept bytes of an evaluation per image, and kept bytes that do not grow with images.

    Kept bytes are needed for a backward pass, besides parameters.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        """Adds up the operations of dispatched calls; torch's own counter follows modules and is ten times slower."""

        total = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if (count := flop_registry.get(func._overloadpacket)) is not None:
                self.total += count(*args, **(kwargs or {}), out_val=out)
            return out

    # Views of a parameter share its storage and are not kept again.
    own = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    tensors: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            tensors[storage] = tensor
        return tensor

    shape = (IMAGES, net.img_channels, net.img_resolution, net.img_resolution)
    x = torch.empty(shape, device="meta", requires_grad=True)
    sigma = torch.empty((IMAGES, 1, 1, 1), device="meta")
    labels = torch.empty((IMAGES, net.label_dim), device="meta") if net.label_dim else None
    with Counter() as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x, sigma, labels, return_flag=part)
    sizes = [tensor.untyped_storage().nbytes() for tensor in tensors.values()]
    # Only sizes that grow with the images have the prime as a factor.
    of_images = sum(size for size in sizes if size // BYTES % IMAGES == 0)
    return counter.total / IMAGES, of_images / IMAGES, float(sum(sizes) - of_images)


#: Bytes of a float32 number.
BYTES = 4
#: Memory besides tensors: bytes of CUDA and its libraries, and the factor for gaps of the allocator.
CONTEXT_BYTES, GAPS = 0.7e9, 1.1


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Cost of a training.

    Attributes:
        operations: Operations per image in networks of the teacher's kind, all passes.
        memory: Bytes on each GPU.
        state: Bytes of a kept state.
        network: Bytes of the resulting network.
        fp16: Whether networks compute in float16.
        features: Operations per image in networks of features, which compute in float32.
    """

    operations: float
    memory: float
    state: float
    network: float
    fp16: bool
    features: float = 0.0


def student_cost(config: Any, network: Mapping[str, Any], guide: Mapping[str, Any] | None = None) -> StepCost:
    """Cost of a distillation.

    In score distillation a step of the fake score takes 1 forward pass (images) + 3 (its own passes), and 3 of the
    encoder for real images. A step of the generator takes 3 (its own passes) and 2 each through the frozen teacher and
    fake score. Other methods have other :class:`~sida.methods.method.Passes`. Gradient checkpointing repeats the
    forward pass of networks with a backward pass; neither the saved memory nor that of networks of features is counted.
    A guiding network costs the same as the teacher. A generator of several steps takes (n + 1) / 2 on average; those
    before the last are forward passes, or of the generator's own images forward and backward ones (``gradient: all``),
    whose maps it keeps.

    Args:
        config: :class:`sida.config.recipe.ResolvedConfig`.
        network: ``{class, kwargs}`` of the teacher, or of the recipe for a method without one.
        guide: ``{class, kwargs}`` of the guiding network; None without guidance.
    """
    guiding = None if guide is None else network_cost(guide)
    trained_network = {**network, "kwargs": {**network["kwargs"], **config.network_options}}
    cost, method = network_cost(trained_network), find_method(config.method)
    options = method.read_options(config.options, "options")
    psi_steps, passes = method.work(options)
    recomputation = cost.forward if config.checkpointing else 0.0
    psi = passes.fake_score * cost.forward + passes.fake_score_encoder * cost.encoder
    theta = passes.generator * cost.forward + passes.generator_encoder * cost.encoder
    further, through_all = (config.num_steps - 1) / 2, config.gradient == "all"
    own = 3 * cost.forward + recomputation if through_all else cost.forward
    operations = (
        psi_steps * (psi + recomputation) + theta + 3 * recomputation + further * (psi_steps * cost.forward + own)
    )
    if guiding is not None:
        operations += (3 if config.checkpointing else 2) * guiding.forward
    images = config.batch_gpu or config.batch_size
    if method.start == "scratch":
        # Such a method has no other network, and the tangents of a forward derivative are not kept.
        alone = teacher_cost({"batch_size": images}, network)
        return dataclasses.replace(alone, operations=operations, fp16=config.fp16)
    width = 2 if config.fp16 else BYTES
    kept_bytes = cost.kept * (config.num_steps if through_all else 1)
    activations = images * (kept_bytes + 2 * cost.kept_frozen) * width / BYTES + 3 * cost.kept_once * width / BYTES
    if guiding is not None:
        activations += (images * guiding.kept_frozen + guiding.kept_once) * width / BYTES
    # φ, ψ, θ and θ's average; Adam's second moments of ψ and θ, and first ones with β₁; one gradient twice.
    moments = 2 + sum(betas[0] > 0 for betas in (config.betas, config.generator_betas or config.betas))
    weights = (6 + moments) * BYTES * cost.parameters
    weights += 0.0 if guiding is None or config.guide == NULL_LABEL else BYTES * guiding.parameters
    # ψ, θ, the average and the kept network, with the moments.
    state = (4 + moments) * BYTES * cost.parameters
    memory = CONTEXT_BYTES + GAPS * (weights + activations)
    gflop = options.feature_gflop(network["kwargs"]["img_resolution"]) if hasattr(options, "feature_gflop") else 0.0
    return StepCost(operations, memory, state, BYTES * cost.parameters, config.fp16, 1e9 * gflop)


def teacher_cost(training: Mapping[str, Any], network: Mapping[str, Any]) -> StepCost:
    """Cost of the training of a teacher: one network, forward and backward.

    Args:
        training: See :class:`sida.config.recipe.TeacherTraining`.
        network: ``{class, kwargs}``.
    """
    cost: NetworkCost = network_cost(network)
    images = training.get("batch_gpu") or training["batch_size"]
    # The network, its average and two moments; the gradient twice.
    weights, state = 6 * BYTES * cost.parameters, 4 * BYTES * cost.parameters
    memory = CONTEXT_BYTES + GAPS * (weights + images * cost.kept + cost.kept_once)
    fp16 = bool(network["kwargs"].get("use_fp16", False))
    return StepCost(3 * cost.forward, memory, state, BYTES * cost.parameters, fp16)
