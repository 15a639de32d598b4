"""An example of a custom network family: the denoiser of a flow-matching network.

docs/add.md names it: a teacher's ``network`` has ``class: docs.examples.flow:FlowPrecond``.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from sida.config.families import EDM
from sida.networks import EDMPrecond


class FlowPrecond(EDMPrecond):
    """A velocity field v(x_t, t) of straight paths x_t = (1 − t) y + t n, seen as a denoiser.

    With x = y + σ n, t = σ / (1 + σ) and x_t = x / (1 + σ): y = x_t − t v.

    Options as `EDMPrecond`, of which ``sigma_data`` has no effect.

    Source: flow matching with the conditional optimal-transport path (arXiv:2210.02747, section 4.1).
    """

    #: Whatever is not said here is as for EDM's networks; methods take their default settings.
    family = dataclasses.replace(EDM, name="flow", title="Flow", like="edm")

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        scale = 1 / (1 + sigma)
        time = sigma * scale
        return scale, -time, scale, time
