"""Distillation methods, one object each. A custom method is also such an object, named ``module:object``.

This module does not import torch before a loss is made, because each command line reads :data:`METHODS` at its start.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from sida.config.method_options import (
    EDM2_P_MEAN,
    EDM2_P_STD,
    EDM_P_MEAN,
    EDM_P_STD,
    SID_ALPHA,
    SIDA_ALPHA,
    GDDOptions,
    InstanceOptions,
)
from sida.config.registry import Registry
from sida.methods.cd import CD
from sida.methods.diff_instruct import DIFF_INSTRUCT
from sida.methods.dmd import DMD
from sida.methods.dmd2 import DMD2
from sida.methods.ect import ECT
from sida.methods.f_distill import F_DISTILL
from sida.methods.method import Method, Passes
from sida.methods.sida_discriminator import JOINT, SiDAOptions, make_fake_score
from sida.methods.uni_instruct import UNI_INSTRUCT_SETTINGS, UniInstructOptions, make_uni_instruct

if TYPE_CHECKING:
    from sida.losses import ScoreLoss
    from sida.methods.build import Parts
    from sida.training.student_trainer import StudentTrainer


# Defaults of recipes by network family: settings that differ between methods or families. Defaults that all methods
# share are fields of sida.config.recipe.Recipe; settings that differ between data sets (rates, batches) have none.
# Source: mingyuanzhou/SiD, branches main and sida, and Zyriix/GDD: training scripts and their options' defaults.

#: Default β₁ and β₂ of Adam.
BETAS = (0.0, 0.999)
#: Values of settings that a method does not read; no result depends on them, but they enter a run's digest.
UNREAD: dict[str, Any] = {
    "P_mean": EDM_P_MEAN, "P_std": EDM_P_STD, "alpha": SIDA_ALPHA, "grad_clip_value": 0.0, "lambda_d": 1.0,
    "logvar": False,
}  # fmt: skip
_EDM: dict[str, Any] = {
    "init_sigma": 2.5, "P_mean": EDM_P_MEAN, "P_std": EDM_P_STD, "lambda_d": 1.0, "ema_half_life_kimg": 500.0,
    "weight_norm": None, "fake_score_weight_norm": None, "logvar": False,
}  # fmt: skip
_EDM2: dict[str, Any] = {
    "init_sigma": 2.5, "P_mean": EDM2_P_MEAN, "P_std": EDM2_P_STD, "lambda_d": 100.0, "ema_half_life_kimg": 2000.0,
    "alpha": SIDA_ALPHA, "grad_clip_value": 0.0,
}  # fmt: skip
_SID_EDM2 = {
    **_EDM2, "warmup_kimg": 0.0, "weight_norm": "in_forward", "fake_score_weight_norm": "in_forward", "logvar": True,
}  # fmt: skip
_SIDA_EDM2 = {
    **_EDM2, "warmup_kimg": 100.0, "weight_norm": "pre_hook", "fake_score_weight_norm": "off", "logvar": True,
}  # fmt: skip

#: Defaults of SiD by the name of a family (:mod:`sida.config.families`).
SID_DEFAULTS = {
    "edm": {**_EDM, "alpha": SID_ALPHA, "grad_clip_value": 0.0, "warmup_kimg": 0.0},
    "edm2": _SID_EDM2,
    "edm2-s": _SID_EDM2,
}
#: Defaults of SiDA and SiD2A.
SIDA_DEFAULTS = {
    "edm": {**_EDM, "alpha": SIDA_ALPHA, "grad_clip_value": 1.0, "warmup_kimg": 100.0},
    "edm2": _SIDA_EDM2,
    "edm2-s": {**_SIDA_EDM2, "weight_norm": "off", "logvar": False},
}
#: Defaults of GDD and GDD-I, whose losses have no noise levels and no α.
GDD_DEFAULTS: dict[str, dict[str, Any]] = {
    "edm": {
        "betas": (0.0, 0.99), "init_sigma": 80.0, "dropout": 0.0, "ema_half_life_kimg": 500.0, "warmup_kimg": 0.0,
        "weight_norm": None, "fake_score_weight_norm": None,
    },
}  # fmt: skip
#: Defaults of instance-based distillation, which has no official code: the input σ_max · z of EDM's sampler, and GDD's
#: settings, since tables compare the two.
INSTANCE_DEFAULTS = GDD_DEFAULTS


def _sid_loss(parts: Parts) -> ScoreLoss:
    from sida.losses import SiDLoss

    return _edm2_loss(parts, adversarial=False) if parts.family.variance_head else parts.make(SiDLoss)


def _sida_loss(parts: Parts) -> ScoreLoss:
    from sida.losses import SiDALoss

    if parts.family.variance_head:
        return _edm2_loss(parts, adversarial=True)
    return parts.make(SiDALoss, pool=parts.config.adversarial_pool)


def _edm2_loss(parts: Parts, adversarial: bool) -> ScoreLoss:
    from sida.losses import EDM2SiDALoss

    config = parts.config
    pool, logvar = config.adversarial_pool, config.logvar
    return parts.make(EDM2SiDALoss, pool=pool, return_logvar=logvar, adversarial=adversarial)


SID = Method(
    name="sid",
    title="SiD",
    about="score identity distillation; no real images",
    start="either",
    real_images=False,
    loss=_sid_loss,
    defaults=SID_DEFAULTS,
)
SIDA = Method(
    name="sida",
    title="SiDA",
    about="with the adversarial term; starts from the teacher",
    real_images=True,
    start="teacher",
    loss=_sida_loss,
    fake_score=make_fake_score,
    options=SiDAOptions,
    passes=JOINT,
    defaults=SIDA_DEFAULTS,
)
SID2A = dataclasses.replace(
    SIDA, name="sid2a", title="SiD2A", about="the same from a distilled generator (--init)", start="generator"
)
UNI_INSTRUCT = dataclasses.replace(
    SIDA,
    name="uni-instruct",
    title="Uni-Instruct",
    about="SiDA, its SiD term weighted by a density ratio for an f-divergence",
    start="either",
    fake_score=None,
    options=UniInstructOptions,
    trainer=make_uni_instruct,
    reads=UNI_INSTRUCT_SETTINGS,
    defaults={"edm": SIDA_DEFAULTS["edm"]},
)


def _gdd_loss(parts: Parts) -> Any:
    from sida.losses import GDDLoss

    return GDDLoss(parts.options.form, parts.options.r1_gamma)


def _gdd_trainer(parts: Parts) -> StudentTrainer:
    from sida.methods.gdd import make_gdd

    return make_gdd(parts)


GDD = Method(
    name="gdd",
    title="GDD",
    about="a discriminator on frozen features, no score; starts from the teacher",
    start="teacher",
    real_images=True,
    loss=_gdd_loss,
    options=GDDOptions,
    passes=Passes(fake_score_encoder=3),
    reads=frozenset({"augment", "fake_score_lr"}),
    trainer=_gdd_trainer,
    defaults=GDD_DEFAULTS,
)
GDD_I = dataclasses.replace(
    GDD, name="gdd-i", title="GDD-I", about="the same with most of the generator's convolutions frozen"
)


def _instance_loss(parts: Parts) -> Any:
    from sida.methods.instance import InstanceLoss

    return InstanceLoss(parts.options.num_steps)


def _instance_trainer(parts: Parts) -> StudentTrainer:
    from sida.methods.instance import make_instance

    return make_instance(parts)


INSTANCE = Method(
    name="instance",
    title="Instance",
    about="squared error to the teacher's image of the same latent; starts from the teacher",
    start="teacher",
    real_images=False,
    loss=_instance_loss,
    options=InstanceOptions,
    trainer=_instance_trainer,
    reads=frozenset({"guidance", "weight_norm"}),
    defaults=INSTANCE_DEFAULTS,
)

METHODS = Registry(
    "method",
    "sida.methods.method:Method",
    {
        method.name: method
        for method in (
            *(SID, SIDA, SID2A, GDD, GDD_I, INSTANCE),
            *(DIFF_INSTRUCT, DMD, DMD2, F_DISTILL, UNI_INSTRUCT, ECT, CD),
        )
    },
)


def is_method(name: str) -> bool:
    """Whether a name belongs to a method or has the form of a custom method (which is not imported)."""
    return METHODS.knows(name)


def find_method(name: str, where: str = "method") -> Method:
    """Returns the method of a name, or the custom method ``module:object``.

    Raises:
        UserError: The method does not exist.
    """
    found: Method = METHODS.find(name, where)
    return found
