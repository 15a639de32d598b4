"""Random tensors of a training step: a function of (seed, purpose, images seen, rank), never of history."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sida.randomness import derive_seed, generator

Shape = Sequence[int]


def step_draws(
    seed: int, purpose: str, nimg: int, rank: int, shapes: Sequence[Shape], device: torch.device, level: str
) -> list[dict[str, torch.Tensor]]:
    """Draws of all accumulation rounds of one step.

    They are drawn for the whole step and then cut, so that the size of the rounds does not change them.

    Args:
        seed: Run seed.
        purpose: ``"psi"`` or ``"generator"``.
        nimg: Images seen before the iteration.
        rank: Device number.
        shapes: ``(N, C, H, W)`` of each round; all rounds agree in C, H, W.
        device: Where the tensors are made.
        level: Name of the draw that decides σ: ``"sigma_normal"`` (normal) or ``"t"`` (uniform in [0, 1)).

    Returns:
        Per round: ``z`` and ``noise`` ``(N, C, H, W)``, and ``level`` ``(N, 1, 1, 1)``.
    """
    source = generator(seed, purpose, nimg, rank, device=device)
    counts = [shape[0] for shape in shapes]
    total, item = sum(counts), tuple(shapes[0][1:])
    z = torch.randn((total, *item), generator=source, device=device)
    draw = torch.rand if level == "t" else torch.randn
    levels = draw((total, 1, 1, 1), generator=source, device=device)
    noise = torch.randn((total, *item), generator=source, device=device)
    parts = zip(z.split(counts), levels.split(counts), noise.split(counts))
    return [{"z": a, level: b, "noise": c} for a, b, c in parts]


def seed_layers(seed: int, purpose: str, nimg: int, rank: int, device: torch.device) -> None:
    """Seeds torch's global generator, which dropout draws from, for one step."""
    value = derive_seed(seed, f"{purpose}-layers", nimg, rank)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
