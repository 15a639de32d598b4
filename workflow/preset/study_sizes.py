"""Sizes, rates and metrics of a new study."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes and rates of a study for images up to a resolution.

    Attributes:
        largest: Largest height and width.
        settings: Values of template variables.
    """

    largest: int
    settings: dict[str, Any]


_SMALL = {
    "device": "cpu",
    "num_blocks": 1,
    "attn_resolutions": "[]",
    "dropout": 0.1,
    "teacher_note": "Small, for a CPU; `sida plan` counts the hours. A better teacher: more kimg, channels and blocks.",
    "teacher_kimg": 200,
    "teacher_batch": 128,
    "teacher_lr": "2.0e-3",
    "lr_decay_start": 0.5,
    "lr_final": 0.0,
    "teacher_ema_kimg": 20,
    "augment": "null",
    "teacher_tick": 5,
    "recipe_note": "Rates of the demo, for networks of this size; the papers' (1e-5) are for far larger ones.",
    "student_kimg": 60,
    "student_batch": 32,
    "student_lr": "5.0e-4",
    "student_ema_kimg": 5,
    "student_tick": 2,
    "every_kimg": 5,
    "adversarial": "    lambda_adv: 3\n    lambda_d: 2\n    warmup_kimg: 1\n    adversarial_kimg: 2",
    "num_samples": 2500,
    "trials": 10,
    "cache": "true",
}
# Source: NVlabs/edm:train.py and README (teachers), Table 8 of SiDA (students).
_LARGE = {
    "device": "cuda",
    "model_channels": 128,
    "num_blocks": 4,
    "attn_resolutions": "[16]",
    "lr_decay_start": 1.0,
    "lr_final": 1.0,
    "teacher_ema_kimg": 500,
    "teacher_tick": 50,
    "recipe_note": "Rates of SiDA's Table 8 (batch 256); the papers train until the curve of evaluations is flat.",
    "student_kimg": 20000,
    "student_batch": 256,
    "student_lr": "1.0e-5",
    "student_ema_kimg": 500,
    "student_tick": 50,
    "every_kimg": 500,
    "adversarial": "    lambda_adv: 0.01\n    lambda_d: 1",
    "num_samples": 50000,
    "trials": 10,
    "cache": "false",
}
SCALES = (
    Scale(8, {**_SMALL, "model_channels": 32, "channel_mult": "[1, 1]"}),
    Scale(16, {**_SMALL, "model_channels": 64, "channel_mult": "[1, 2]"}),
    Scale(
        32,
        {
            **_LARGE,
            "channel_mult": "[2, 2, 2]",
            "dropout": 0.13,
            "teacher_note": "EDM's network and rates for CIFAR-10, which trains it for 200,000 kimg (GPU days).",
            "teacher_kimg": 100000,
            "teacher_batch": 512,
            "teacher_lr": "1.0e-3",
            "augment": "{p: 0.12}",
        },
    ),
    Scale(
        64,
        {
            **_LARGE,
            "channel_mult": "[1, 2, 2, 2]",
            "dropout": 0.05,
            "teacher_note": "EDM's network and rates for FFHQ at 64×64, which trains it for 200,000 kimg (GPU days).",
            "teacher_kimg": 100000,
            "teacher_batch": 256,
            "teacher_lr": "2.0e-4",
            "augment": "{p: 0.15}",
        },
    ),
)
#: Sizes and rates of ``sida new --quick``.
QUICK = Scale(
    16,
    {
        **_SMALL,
        "model_channels": 16,
        "channel_mult": "[1, 2]",
        "teacher_note": "Of `sida new --quick`: every step in minutes. For results make it without --quick.",
        "teacher_kimg": 50,
        "teacher_ema_kimg": 4,
        "student_kimg": 10,
        "student_ema_kimg": 1,
        "every_kimg": 2,
        "num_samples": 500,
        "trials": 3,
    },
)
#: Metrics (key, kind, further fields, label, direction, decimals): without downloads, and with Inception.
METRICS = {
    "pixels": (
        ("fd", "frechet", "reference: data", "FD (pixels)", "lower", 3),
        ("precision", "precision", "reference: data, k: 3", "Prec.", "higher", 3),
        ("recall", "recall", "reference: data, k: 3", "Rec.", "higher", 3),
    ),
    "inception": (
        ("fd", "frechet", "reference: data", "FID", "lower", 3),
        ("is", "inception_score", "splits: 10", "IS", "higher", 3),
        ("precision", "precision", "reference: data, k: 3", "Prec.", "higher", 3),
        ("recall", "recall", "reference: data, k: 3", "Rec.", "higher", 3),
    ),
}
