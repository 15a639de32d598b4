"""Default settings of the methods by network family, as the official code has them.

They are what a recipe leaves out: the settings that differ between methods or families. What is the same for all
stands in :class:`sida.methods.DistillConfig`; what differs between data sets (rates, batches, augmentation) nowhere.

Source: mingyuanzhou/SiD, branches main and sida, and Zyriix/GDD: training scripts, their options' defaults, the loops.
"""

from __future__ import annotations

from typing import Any

#: Adam's β₁ and β₂ where a method does not say otherwise.
BETAS = (0.0, 0.999)
_EDM: dict[str, Any] = {
    "init_sigma": 2.5, "P_mean": -1.2, "P_std": 1.2, "lambda_d": 1.0, "ema_half_life_kimg": 500.0,
    "weight_norm": None, "fake_score_weight_norm": None, "logvar": False,
}  # fmt: skip
_EDM2: dict[str, Any] = {
    "init_sigma": 2.5, "P_mean": -0.4, "P_std": 1.0, "lambda_d": 100.0, "ema_half_life_kimg": 2000.0, "alpha": 1.0,
    "grad_clip_value": 0.0,
}  # fmt: skip
_SID_EDM2 = {
    **_EDM2, "warmup_kimg": 0.0, "weight_norm": "in_forward", "fake_score_weight_norm": "in_forward", "logvar": True,
}  # fmt: skip
_SIDA_EDM2 = {
    **_EDM2, "warmup_kimg": 100.0, "weight_norm": "pre_hook", "fake_score_weight_norm": "off", "logvar": True,
}  # fmt: skip

#: SiD's, by the name of a family (:mod:`sida.config.families`).
SID_DEFAULTS = {
    "edm": {**_EDM, "alpha": 1.2, "grad_clip_value": 0.0, "warmup_kimg": 0.0},
    "edm2": _SID_EDM2,
    "edm2-s": _SID_EDM2,
}
#: SiDA's and SiD2A's.
SIDA_DEFAULTS = {
    "edm": {**_EDM, "alpha": 1.0, "grad_clip_value": 1.0, "warmup_kimg": 100.0},
    "edm2": _SIDA_EDM2,
    "edm2-s": {**_SIDA_EDM2, "weight_norm": "off", "logvar": False},
}
#: GDD's and GDD-I's. Its losses have no noise levels and no α; those of EDM stand for what nothing reads.
GDD_DEFAULTS = {
    "edm": {
        **_EDM, "betas": (0.0, 0.99), "init_sigma": 80.0, "dropout": 0.0, "alpha": 1.0, "grad_clip_value": 0.0,
        "warmup_kimg": 0.0,
    },
}  # fmt: skip
#: Instance-based distillation's, which has no official code: its input is that of EDM's sampler, σ_max · z, and the
#: rest is GDD's, with which it is compared.
INSTANCE_DEFAULTS = GDD_DEFAULTS
