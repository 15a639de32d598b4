"""Diff-Instruct: the gradient of the generator is the unweighted difference of the two scores."""

from __future__ import annotations

from sida.config.recipe import EDM_P_MEAN, EDM_P_STD, SCORE_SETTINGS
from sida.methods.method import Method, Passes

DIFF_INSTRUCT = Method(
    name="diff-instruct",
    title="Diff-Instruct",
    about="the plain difference of the two scores; no real images; starts from the teacher",
    start="teacher",
    real_images=False,
    loss="sida.methods.matching:DiffInstructLoss",
    reads=SCORE_SETTINGS - {"alpha", "lambda_sid", "t_max", "logvar"},
    passes=Passes(generator=5),
    defaults={
        "edm": {
            "init_sigma": 1.0, "P_mean": EDM_P_MEAN, "P_std": EDM_P_STD, "ema_half_life_kimg": 500.0,
            "grad_clip_value": 0.0, "warmup_kimg": 0.0, "weight_norm": None, "fake_score_weight_norm": None,
        },
    },
)  # fmt: skip
