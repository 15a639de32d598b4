"""Tiny pipelines of diffusers with random weights, written as its own programs write them, and changes of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.refused import command, refusing

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


def edited(name: str, **changes: Any) -> Callable[[Path], None]:
    """A change of a folder: other values in one of its files of settings."""

    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def refused_with(folder: Path, tmp_path: Path, change: Callable[[Path], Any], *told: str) -> None:
    """Checks that a changed copy of a folder is refused by one line and nothing is written."""
    change(other := shutil.copytree(folder, tmp_path / "other"))
    with refusing(*told):
        command("convert", other, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
