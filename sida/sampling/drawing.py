"""Parts of a kind of sampler: the batch that it draws, and its functions."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sida.config.families import Family
from sida.config.samplers import Sampler
from sida.sampling.guidance import Guide
from sida.sampling.streams import SeedStreams


@dataclasses.dataclass(frozen=True)
class Call:
    """A batch to draw.

    Attributes:
        sampler: Sampler with a network.
        net: The network, or its substitute, which is called.
        guide: Guidance; None without a guiding network.
        inputs: Latents, and class labels or None.
        streams: Sources of fresh noise, one per image.
        family: Family of the network.
    """

    sampler: Sampler
    net: Any
    guide: Guide | None
    inputs: tuple[torch.Tensor, torch.Tensor | None]
    streams: SeedStreams
    family: Family

    def of_steps(self, function: Callable[..., torch.Tensor], **arguments: Any) -> torch.Tensor:
        """Images of a function with the kind's arguments and ``arguments``."""
        dtype = getattr(torch, self.sampler.dtype or self.family.sampler_dtype)
        arguments |= {"dtype": dtype, "noise": self.streams.randn_like, "guide": self.guide, **self.sampler.arguments}
        return function(self.net, *self.inputs, self.sampler.steps, **arguments)


class Drawing(NamedTuple):
    """Computation of a kind of sampler.

    Attributes:
        draw: Images or latents of about unit scale, ``(N, C, H, W)``.
        check: ``check(sampler, network, guide)`` raises UserError before anything is drawn if they cannot draw.
    """

    draw: Callable[[Call], torch.Tensor]
    check: Callable[[Sampler, Any, Any], object] = lambda sampler, net, guide: None
