"""Judges from timm: CLIP, MAE, SigLIP2, ConvNeXt-v2 and DINOv2, each with one preprocessing of pictures.

Names end in the preprocessing, since a network can have several. ``_fdr`` is FDr6's (FD-Loss, arXiv 2604.28190): float
in 0..1, torch's antialiased bicubic to the side, not clamped; transformers pad a side that their patch size does not
divide. ``_cmmd`` is CMMD's: Pillow's bicubic of the central square in bytes, projected features.

FDr6 runs CLIP with GELU, although its weights were trained with QuickGELU. ``clip_fdr`` does the same, so that its
numbers are comparable with printed ones. FD-Loss computes transformers and ConvNeXt in bfloat16 on a GPU, this module
in float32.
"""

import pickle
from pathlib import Path
from typing import Any, ClassVar

import torch

from sida.assets.cache import checked, fetch
from sida.errors import UserError, reason_of
from sida.eval.features.base import Extractor, as_rgb
from sida.eval.features.digits import weights_digest
from sida.eval.features.pixels import resized
from sida.eval.features.registry import EXTRACTORS
from sida.files.atomic import sha256_json


class TimmExtractor(Extractor):
    """Features of a network of timm.

    Args:
        device: Torch device of the network.
        weights: File of the weights; None: the registered asset; ``random``: drawn with a fixed seed, for trials.

    Attributes:
        model: Name of the network in timm.
        side: Height and width of its input.
        kwargs: Further arguments of the network.
        projected: Whether the head's projection gives the features.
        pipeline: The preprocessing of pictures, which is part of the digest.
    """

    model: ClassVar[str]
    side: ClassVar[int]
    kwargs: ClassVar[dict[str, Any]] = {"dynamic_img_size": True, "dynamic_img_pad": True}
    projected: ClassVar[bool] = False
    pipeline = "0..1, torch bicubic, antialiased, not clamped"
    at_once = 8

    def __init__(self, device: str | torch.device = "cpu", weights: str | Path | None = None) -> None:
        super().__init__(device)
        import timm

        kwargs: dict[str, Any] = dict(self.kwargs if self.projected else {"num_classes": 0, **self.kwargs})
        if weights != "random":
            path = fetch(EXTRACTORS[self.name].assets[0]) if weights is None else checked(str(weights))
            kwargs |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net: Any = timm.create_model(self.model, **kwargs)
        except (RuntimeError, KeyError, ValueError, OSError, pickle.UnpicklingError) as error:
            fault = f"not the weights of '{self.name}' ({reason_of(error)})"
            remedy = f"`sida assets fetch {EXTRACTORS[self.name].assets[0]}`"
            raise UserError(weights or self.name, fault, remedy) from None
        self._net = net.to(self.device).eval().requires_grad_(False)
        config: dict[str, Any] = self._net.pretrained_cfg
        self._mean, self._std = (
            torch.tensor(config[key], device=self.device).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        self.num_features = self._net.num_classes if self.projected else self._net.num_features
        facts = [weights_digest(self._net.state_dict()), self.model, self.side, self.pipeline, self.projected]
        self.sha256 = sha256_json(facts)

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Input of the network, float32 (N, 3, side, side), of images in 0..255 (N, C, H, W)."""
        return (self._resized(as_rgb(images, self.name)) - self._mean) / self._std

    def _resized(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(torch.float32) / 255
        if images.shape[-2:] == (self.side, self.side):
            return images
        size = (self.side, self.side)
        return torch.nn.functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        net, inputs = self._net, self.inputs(images)
        assert inputs.shape == (len(images), 3, self.side, self.side)
        if self.projected:
            return net(inputs).float(), None
        maps = net.forward_features(inputs)
        if maps.ndim == 4:  # a convolutional network's (N, C, H, W): averaged without the head's norm
            return maps.mean((2, 3)).float(), None
        return (maps[:, 0] if net.num_prefix_tokens else net.pool(maps)).float(), None


class ConvNeXtFDr(TimmExtractor):
    """ConvNeXt-v2-B, spatial mean of the last map."""

    name, model, side = "convnext_fdr", "convnextv2_base.fcmae_ft_in22k_in1k", 224
    kwargs: ClassVar[dict[str, Any]] = {}


class DINOv2FDr(TimmExtractor):
    """DINOv2 ViT-L/14, class token, at 256 padded to 266."""

    name, model, side = "dinov2_fdr", "vit_large_patch14_dinov2.lvd142m", 256


class MAEFDr(TimmExtractor):
    """MAE ViT-L/16, class token."""

    name, model, side = "mae_fdr", "vit_large_patch16_224.mae", 224


class SigLIP2FDr(TimmExtractor):
    """SigLIP2 SO400M/16, attention pool, at 224 and not at its 256."""

    name, model, side = "siglip2_fdr", "vit_so400m_patch16_siglip_256.v2_webli", 224


class ClipFDr(TimmExtractor):
    """CLIP ViT-L/14, class token after the norm."""

    name, model, side = "clip_fdr", "vit_large_patch14_clip_224.openai", 256


class ClipCMMD(TimmExtractor):
    """CLIP ViT-L/14 at 336, projection; the kind ``mmd`` divides it by its length."""

    name, model, side = "clip_cmmd", "vit_large_patch14_clip_quickgelu_336.openai", 336
    kwargs: ClassVar[dict[str, Any]] = {}
    projected = True
    pipeline = "Pillow bicubic of the central square, bytes"
    gradient = False

    def _resized(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        square = images[..., top : top + short, left : left + short]
        return resized(square, self.side, rounded=True).to(self.device, torch.float32) / 255
