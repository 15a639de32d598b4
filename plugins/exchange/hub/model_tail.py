"""End of ``model.py``: the network with its weights, and its images by seed. `sida export` fills in the names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file

from sida.config.samplers import GeneratorSteps
from sida.networks.precond import Precond
from sida.sampling.samplers import multi_step, to_uint8
from sida.sampling.streams import SeedStreams


class OneStepGenerator(torch.nn.Module):
    """The generator; a component of a diffusers pipeline.

    >>> images = OneStepGenerator.from_pretrained(FOLDER).sample(16, seed=0)
    """

    def __init__(self, net: Precond) -> None:
        super().__init__()
        self.net = net
        self.generator_steps: GeneratorSteps = STEPS  # type: ignore[name-defined]  # noqa: F821 - stands above

    @property
    def steps(self) -> int:
        """Network evaluations of an image."""
        return self.generator_steps.count

    @classmethod
    def from_pretrained(cls, folder: str, **_: Any) -> OneStepGenerator:
        """Reads ``network.safetensors`` of the folder; the settings of diffusers do not apply."""
        generator = cls(build())  # type: ignore[name-defined]  # noqa: F821 - stands above this class
        generator.net.load_state_dict(load_file(os.path.join(folder, "network.safetensors")))
        return generator.eval()

    @torch.no_grad()
    def sample(
        self,
        count: int | Sequence[int],
        seed: int = 0,
        class_labels: int | Sequence[int] | None = None,
        batch_size: int = 64,
    ) -> torch.Tensor:
        """Images uint8 ``(N, C, H, W)`` on the CPU, equal to the images of ``sida sample``; or latents float32.

        Args:
            count: Number of images, for the seeds ``seed … seed + count − 1``; or the seeds themselves.
            seed: First seed.
            class_labels: One class for all, or one for each; None draws classes by seed.
            batch_size: Images per network call; other sizes may change single levels by 1.
        """
        seeds = list(range(seed, seed + count)) if isinstance(count, int) else [int(value) for value in count]
        classes = [class_labels] * len(seeds) if isinstance(class_labels, int) else class_labels
        if classes is not None and (not self.net.label_dim or len(classes) != len(seeds)):
            raise ValueError(f"class_labels: one class, or {len(seeds)} of them, of a network with classes")
        net, device = self.net.evaluation_copy().eval(), next(self.net.parameters()).device
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        try:
            parts = []
            for start in range(0, len(seeds), batch_size):
                batch = seeds[start : start + batch_size]
                # The last batch is filled up, so that its images do not depend on their number.
                filled = batch + batch[-1:] * (batch_size - len(batch))
                streams = SeedStreams(filled)
                latents = streams.randn((net.img_channels, net.img_resolution, net.img_resolution))
                labels = None
                if net.label_dim:
                    drawn = streams.randint(net.label_dim)
                    if classes is not None:
                        batch_classes = [*classes[start : start + batch_size]]
                        drawn = torch.tensor(batch_classes + batch_classes[-1:] * (batch_size - len(batch_classes)))
                    labels = torch.nn.functional.one_hot(drawn, net.label_dim).float().to(device)
                inputs = latents.to(device), labels, self.generator_steps, streams.randn_like
                images = multi_step(net, *inputs)[: len(batch)]
                parts.append((to_uint8(images) if net.img_channels in (1, 3) else images).cpu())
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
        return torch.cat(parts)
