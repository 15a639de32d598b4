"""Computed numbers that claims are about; no measurement can change them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

PUBLISHED_RUNS = 10


def added_parameters() -> tuple[float, str]:
    """Number of parameters that SiDA trains in addition to those of SiD, on one network."""
    import torch

    from sida.losses import SiDALoss, SiDLoss
    from sida.methods.distiller import Distiller, DistillerSettings
    from sida.networks import EDMPrecond
    from sida.training.schedule import Schedule

    def count(loss: SiDLoss) -> int:
        with torch.random.fork_rng(devices=[]):
            phi, psi, theta = (
                EDMPrecond(img_resolution=8, img_channels=1, label_dim=0, model_channels=16) for _ in range(3)
            )
        distiller = Distiller(phi, psi, theta, loss, Schedule(), DistillerSettings(lr=1e-5))
        return distiller.fake_score.flat.vector.numel() + distiller.generator.flat.vector.numel()

    plain, adversarial = count(SiDLoss()), count(SiDALoss())
    return adversarial - plain, f"trained parameters of SiDA ({adversarial:,}) less those of SiD ({plain:,})"


@functools.lru_cache(maxsize=64)
def expected_lowest(n: int) -> float:
    """Expected minimum of ``n`` independent standard normal values (trapezoidal rule)."""
    step = 1e-3
    points = [-8 + step * i for i in range(int(16 / step) + 1)]

    def density(x: float) -> float:
        above = 0.5 * math.erfc(x / math.sqrt(2))
        return n * above ** (n - 1) * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    return step * math.fsum(x * density(x) for x in points)


def best_of_ten() -> tuple[float, str]:
    """Expected minimum of ten independent standard normal values."""
    return expected_lowest(PUBLISHED_RUNS), "expected best of ten evaluations, in standard deviations from their mean"


def innate_share(network: dict[str, Any]) -> tuple[float, str]:
    """Share of a published generator's parameters that GDD-I freezes, counted without allocating memory."""
    import torch

    from sida.methods.gdd import freeze_innate
    from sida.networks import build_network

    with torch.device("meta"):
        net = build_network({"class": "GDDPrecond", "kwargs": network})
    return freeze_innate(net), "share of the generator's parameters that GDD-I freezes"


_NCSNPP = {
    "model_type": "SongUNet", "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1], "model_channels": 128, "channel_mult": [2, 2, 2], "augment_dim": 9,
    "img_resolution": 32, "img_channels": 3,
}  # fmt: skip
_ADM = {
    "model_type": "DhariwalUNet", "model_channels": 192, "channel_mult": [1, 2, 3, 4], "img_resolution": 64,
    "img_channels": 3, "label_dim": 1000,
}  # fmt: skip

FACTS: dict[str, Callable[[], tuple[float, str]]] = {
    "added_parameters": added_parameters,
    "best_of_ten": best_of_ten,
    "innate_cifar10": lambda: innate_share(_NCSNPP),
    "innate_imagenet64": lambda: innate_share(_ADM),
}
