"""Networks of MeanFlow, with two times: the mean velocity u(z; t, h) of a flow on the way from its time t to t − h.

A flow's time is 0 for an image y and 1 for noise n, z = (1 − t) y + t n. With h = 0 the mean velocity is the flow's
velocity, so that the network is a denoiser of any level as the other networks are; with t = h = 1 one evaluation leads
from noise to an image, z − u(z; 1, 1).

Source: MeanFlow (arXiv:2505.13447); Gsunshine/py-meanflow:meanflow/models/{meanflow,unet}.py,
Gsunshine/meanflow:{meanflow,models/models_dit}.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sida.config.families import Family
from sida.errors import SettingError
from sida.networks.body import Classes, Side, Size
from sida.networks.edm_unet import SongUNet
from sida.networks.precond import Precond, StateReading
from sida.networks.unet_precond import UNetPrecond
from sida.plugins.meanflow.families import MEAN_FLOW, MEAN_FLOW_DIT
from sida.plugins.transformers.networks import TimeEmbedding, TransformerPrecond


def both_times(times: Tensor) -> tuple[Tensor, Tensor]:
    """Time t and length h, (N or 1,) each, of (N or 1, 2), or of only times (N or 1,), whose length is 0."""
    return (times, torch.zeros_like(times)) if times.ndim == 1 else (times[:, 0], times[:, 1])


class MeanVelocity(Precond):
    """Base class of networks with two times; bodies take times (N or 1,), or times and lengths (N or 1, 2)."""

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`; those of straight paths, with the time from the image to noise."""
        scale = 1 / (1 + sigma)
        return scale, -sigma * scale, scale, sigma * scale

    def mean_velocity(
        self,
        z: Tensor,
        t: Tensor,
        h: Tensor,
        class_labels: Tensor | None = None,
        *,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Mean velocity u(z; t, h), float32 (N, C, H, W).

        Its forward derivatives exist within :func:`sida.networks.body.forward_derivatives`.

        Args:
            z: Points (N, C, H, W) of the paths.
            t: Times in [0, 1], N or 1 values in any shape.
            h: Lengths in [0, t], as many.
            class_labels: See :meth:`forward`.
            augment_labels: See :meth:`forward`.
        """
        _, class_labels = self._check(z, 1.0, class_labels, augment_labels)
        times = torch.stack([t.flatten(), h.flatten()], 1).float()
        half = self.use_fp16 and z.is_cuda
        scaled = z.to(self.half_dtype if half else torch.float32)
        raw: Any = self.body(scaled, times, class_labels, augment_labels, "decoder", None)
        velocity: Tensor = raw.float()
        return velocity

    def from_noise(self, z: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Image of pure noise in one evaluation, z − u(z; 1, 1); see `Precond.from_noise`."""
        one = torch.ones(1, device=z.device)
        return z.float() - self.mean_velocity(z, one, one, class_labels)


class TwoTimeUNet(SongUNet):
    """`SongUNet` that embeds t and h side by side; names and order of its tensors are those of py-meanflow."""

    times = 2
    stacked = True

    def embed_noise(self, noise_labels: Tensor) -> Tensor:
        """Maps times (N or 1,), or times and lengths (N or 1, 2), to (N or 1, 2 noise_channels)."""
        return torch.cat([super(TwoTimeUNet, self).embed_noise(time) for time in both_times(noise_labels)], 1)


class MeanFlowPrecond(MeanVelocity, UNetPrecond):
    """MeanFlow's U-Net for small images.

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        **model_kwargs: Further options of `SongUNet`.

    State-dict names are those of Gsunshine/py-meanflow:meanflow/models/unet.py behind ``model.``. That network has no
    classes; the layer for them is as EDM's.
    """

    family: ClassVar[Family] = MEAN_FLOW
    #: py-meanflow's network for CIFAR-10.
    CIFAR10: ClassVar[Mapping[str, Any]] = {
        "img_resolution": 32, "img_channels": 3, "label_dim": 0, "augment_dim": 6, "model_channels": 128,
        "channel_mult": [2, 2, 2], "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1], "dropout": 0.2,
    }  # fmt: skip
    #: Networks of py-meanflow's state dict, and of SoFlow's; the first one that a file has is read. Images of the
    #: former are of ``net_ema1``.
    NETWORKS: ClassVar[Mapping[str, str]] = {
        "net_ema1.": "MeanFlowPrecond", "net_ema.": "MeanFlowPrecond", "network.": "SoFlowPrecond", "net.": "", "": "",
    }  # fmt: skip
    landmarks = tuple(f"{name}map_layer0.weight" for name in NETWORKS)

    def __init__(
        self, img_resolution: Side, img_channels: Size, label_dim: Classes = 0, use_fp16: bool = False,
        **model_kwargs: Any,
    ):  # fmt: skip
        super().__init__(locals(), model_kwargs)

    @classmethod
    def unet_class(cls, kwargs: Mapping[str, Any]) -> type[TwoTimeUNet]:
        """See `UNetPrecond.unet_class`."""
        return TwoTimeUNet

    @classmethod
    def read_state(
        cls, shapes: Mapping[str, tuple[int, ...]], kwargs: Mapping[str, Any], arguments: Mapping[str, Any] | None
    ) -> StateReading:
        """See `Precond.read_state`: a state dict of py-meanflow; options that are not named are those of its CIFAR-10
        form.

        Of its networks the average 0.99995 is read, of which the authors draw, else the one with 0.9999, else the last.
        No shape shows the order of the channels of attention, in which py-meanflow and SoFlow differ, but their names
        begin otherwise.
        """
        prefix = next((name for name in cls.NETWORKS if f"{name}map_layer0.weight" in shapes), None)
        if prefix is None:
            fault = "the file is not a network of py-meanflow (map_layer0.weight)"
            raise SettingError("network.class", fault, "name another class, or the entry with it (--key model)")
        names = {f"model.{name.removeprefix(prefix)}": name for name in shapes if name.startswith(prefix)}
        others = sorted({name.partition(".")[0] for name in shapes if not name.startswith(prefix)})
        omitted = f"{len(shapes) - len(names)} tensors of {', '.join(others)} beside {prefix[:-1]}" if others else ""
        writer = cls.NETWORKS[prefix]
        remark = f"its names begin with {prefix}, as in files of {writer}" if writer not in ("", cls.__name__) else ""
        return StateReading({**cls.CIFAR10, **kwargs}, names, omitted, remarks=(remark,))


class AlternatingUNet(TwoTimeUNet):
    """`TwoTimeUNet` whose attention has query, key and value channels in turn, as EDM's; no shape shows the order."""

    stacked = False


class SoFlowPrecond(MeanFlowPrecond):
    """SoFlow's U-Net for small images: f(x; t, s) = x − (t − s) u(x; t, t − s) with its network u.

    Options as `MeanFlowPrecond`. State-dict names are those of zlab-princeton/SoFlow:unet.py (commit 3b60d60) behind
    ``model.``, with ``network.`` before them in its files.
    """

    CIFAR10: ClassVar[Mapping[str, Any]] = {**MeanFlowPrecond.CIFAR10, "dropout": 0.3}

    @classmethod
    def unet_class(cls, kwargs: Mapping[str, Any]) -> type[AlternatingUNet]:
        """See `UNetPrecond.unet_class`."""
        return AlternatingUNet


class MeanFlowDiT(MeanVelocity, TransformerPrecond):
    """MeanFlow's transformer: DiT's, with a second embedding for h, and the velocity of straight paths.

    Options as `TransformerPrecond`. State-dict names are those of `TransformerPrecond`, and ``h_embedder``. Files of
    the authors are JAX's and are not read.
    """

    family: ClassVar[Family] = MEAN_FLOW_DIT

    def __init__(
        self, img_resolution: Side, img_channels: Size, label_dim: Classes = 0, use_fp16: bool = False, **options: Any
    ):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, **options)
        self.h_embedder = TimeEmbedding(self.hidden_size)

    def embedding(self, noise_labels: Tensor) -> Tensor:
        """Maps times (N or 1,), or times and lengths (N or 1, 2), to (N or 1, hidden_size)."""
        t, h = both_times(noise_labels)
        embedded: Tensor = self.t_embedder(t) + self.h_embedder(h)
        return embedded
