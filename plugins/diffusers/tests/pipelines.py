"""Tiny pipelines of diffusers with random weights, written as its own programs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="the extra 'diffusers' is not installed")

#: Options of a U-Net of 8×8 grey pictures.
TINY: dict[str, Any] = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8, 16),
    "norm_num_groups": 4, "attention_head_dim": 4, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


def make_pipeline(scheduler: dict[str, Any] | None = None, **unet: Any) -> Any:
    """A `DDPMPipeline` with weights of seed 0, large enough that no layer is without effect."""
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(**{**TINY, **unet})
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return diffusers.DDPMPipeline(unet=net.eval(), scheduler=diffusers.DDPMScheduler(**(scheduler or {})))


def write_pipeline(folder: Path, scheduler: dict[str, Any] | None = None, **unet: Any) -> Any:
    """Writes a pipeline as `train_unconditional.py` does, and returns it."""
    pipeline = make_pipeline(scheduler, **unet)
    pipeline.save_pretrained(folder)
    return pipeline
