"""Computed numbers that the papers' claims are about; no measurement can change them."""

from __future__ import annotations

from typing import Any

from eval.claims.curves import expected_lowest
from eval.results.analyses import Analysis, Found, Inputs
from eval.results.published import PUBLISHED_TRIALS


def trained_parameters(adversarial: bool) -> int:
    """Number of parameters that SiD or SiDA trains on one small network."""
    import torch

    from sida.methods.registry import recipe_of
    from sida.methods.sid import SiDALoss, SiDLoss
    from sida.networks import EDMPrecond
    from sida.training.iteration import Distiller
    from sida.training.schedule import Schedule

    with torch.random.fork_rng(devices=[]):
        phi, psi, theta = (
            EDMPrecond(img_resolution=8, img_channels=1, label_dim=0, model_channels=16) for _ in range(3)
        )
    loss = SiDALoss() if adversarial else SiDLoss()
    distiller = Distiller(phi, psi, theta, loss, Schedule(), recipe_of())
    return distiller.fake_score.flat.vector.numel() + distiller.generator.flat.vector.numel()


def innate_share(network: dict[str, Any]) -> float:
    """Share of a published generator's parameters that GDD-I freezes, counted without allocating memory."""
    import torch

    from sida.methods.gdd import freeze_innate
    from sida.networks import build_network

    with torch.device("meta"):
        net = build_network({"class": "GDDPrecond", "kwargs": network})
    return freeze_innate(net)


_NCSNPP = {
    "model_type": "SongUNet", "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1], "model_channels": 128, "channel_mult": [2, 2, 2], "augment_dim": 9,
    "img_resolution": 32, "img_channels": 3,
}  # fmt: skip
_ADM = {
    "model_type": "DhariwalUNet", "model_channels": 192, "channel_mult": [1, 2, 3, 4], "img_resolution": 64,
    "img_channels": 3, "label_dim": 1000,
}  # fmt: skip


def compute(inputs: Inputs, options: None) -> Found:
    """Counts parameters and computes the expected best of ten evaluations."""
    return Found(
        {
            "added_parameters": trained_parameters(adversarial=True) - trained_parameters(adversarial=False),
            "best_of_ten": expected_lowest(PUBLISHED_TRIALS),
            "innate_cifar10": innate_share(_NCSNPP),
            "innate_imagenet64": innate_share(_ADM),
        }
    )


COUNTED = Analysis(
    compute,
    {
        "added_parameters": "trained parameters of SiDA less those of SiD",
        "best_of_ten": "expected best of ten evaluations, in standard deviations from their mean",
        "innate_cifar10": "share of the generator's parameters that GDD-I freezes (CIFAR-10)",
        "innate_imagenet64": "share of the generator's parameters that GDD-I freezes (ImageNet 64×64)",
    },
)
