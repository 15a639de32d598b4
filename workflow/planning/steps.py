"""Operations per image and GPU memory of the training of a student or teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sida.methods.registry import find_method
from workflow.planning.networks import NetworkCost, network_cost

#: Bytes of a float32 number.
BYTES = 4
#: Memory besides tensors: bytes of CUDA and its libraries, and the factor for gaps of the allocator.
CONTEXT_BYTES, GAPS = 0.7e9, 1.1


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Cost of a training.

    Attributes:
        operations: Operations per image in all networks and passes.
        memory: Bytes on each GPU.
        state: Bytes of a kept state.
        network: Bytes of the resulting network.
        fp16: Whether networks compute in float16.
    """

    operations: float
    memory: float
    state: float
    network: float
    fp16: bool


def student_cost(
    config: Any, network: Mapping[str, Any], gpus: int = 1, guide: Mapping[str, Any] | None = None
) -> StepCost:
    """Cost of a distillation.

    In score distillation a step of the fake score takes 1 forward pass (images) + 3 (its own passes), and 3 of the
    encoder for real images. A step of the generator takes 3 (its own passes) and 2 each through the frozen teacher and
    fake score. Other methods have other :class:`~sida.methods.method.Passes`. Gradient checkpointing repeats the
    forward pass of networks with a backward pass; the saved memory is not counted. A guiding network costs the same as
    the teacher.

    Args:
        config: :class:`sida.training.config.ResolvedConfig`.
        network: ``{class, kwargs}`` of the teacher.
        gpus: Number of GPUs, which share the optimizer state if the settings say so (``shard``).
        guide: ``{class, kwargs}`` of the guiding network; None without guidance.
    """
    guiding = None if guide is None else network_cost(guide)
    cost, method = network_cost(network), find_method(config.method)
    passes = getattr(method.read_options(config.options, "options"), "passes", method.passes)
    again = cost.forward if config.checkpointing else 0.0
    psi = passes.fake_score * cost.forward + passes.fake_score_encoder * cost.encoder
    theta = passes.generator * cost.forward + passes.generator_encoder * cost.encoder
    operations = method.psi_steps * (psi + again) + theta + 3 * again
    if guiding is not None:
        operations += (3 if config.checkpointing else 2) * guiding.forward
    images = config.batch_gpu or config.batch_size
    width = 2 if config.fp16 else BYTES
    activations = images * (cost.kept + 2 * cost.kept_frozen) * width / BYTES + 3 * cost.kept_once * width / BYTES
    if guiding is not None:
        activations += (images * guiding.kept_frozen + guiding.kept_once) * width / BYTES
    # φ, ψ, θ and θ's average; Adam's second moments of ψ and θ, and first ones with β₁; one gradient twice.
    moments = 2 + sum(betas[0] > 0 for betas in (config.betas, config.generator_betas or config.betas))
    pieces = gpus if config.shard == "optimizer" else 1
    weights = (3 + (1 + moments + 2) / pieces) * BYTES * cost.parameters
    weights += 0.0 if guiding is None else BYTES * guiding.parameters
    # ψ, θ, the average and the kept network, with the moments.
    state = (4 + moments) * BYTES * cost.parameters
    memory = CONTEXT_BYTES + GAPS * (weights + activations)
    return StepCost(operations, memory, state, BYTES * cost.parameters, config.fp16)


def teacher_cost(training: Mapping[str, Any], network: Mapping[str, Any]) -> StepCost:
    """Cost of the training of a teacher: one network, forward and backward.

    Args:
        training: See :class:`sida.training.config.TeacherTraining`.
        network: ``{class, kwargs}``.
    """
    cost: NetworkCost = network_cost(network)
    images = training.get("batch_gpu") or training["batch_size"]
    # The network, its average and two moments; the gradient twice.
    weights, state = 6 * BYTES * cost.parameters, 4 * BYTES * cost.parameters
    memory = CONTEXT_BYTES + GAPS * (weights + images * cost.kept + cost.kept_once)
    fp16 = bool(network["kwargs"].get("use_fp16", False))
    return StepCost(3 * cost.forward, memory, state, BYTES * cost.parameters, fp16)
