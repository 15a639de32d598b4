"""Losses: one class per method; tests can replace the random draws."""

from sida.losses.edm import EDMLoss
from sida.losses.gdd import GDDLoss
from sida.losses.sid import SiDLoss
from sida.losses.sida import EDM2SiDALoss, Pool, SiDALoss
from sida.losses.terms import (
    Draws,
    Gamma,
    Loss,
    MicroBatch,
    ScoreLoss,
    Terms,
    edm_weight,
    lognormal_sigma,
    score_weight,
    sigma_of_t,
)

__all__ = [
    "Draws",
    "EDM2SiDALoss",
    "EDMLoss",
    "GDDLoss",
    "Gamma",
    "Loss",
    "Pool",
    "MicroBatch",
    "ScoreLoss",
    "SiDALoss",
    "SiDLoss",
    "Terms",
    "edm_weight",
    "lognormal_sigma",
    "score_weight",
    "sigma_of_t",
]
