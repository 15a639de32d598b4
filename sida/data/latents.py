"""Latents of images: their scaling, and the autoencoder that makes and decodes them.

A stored item is the mean and standard deviation of the VAE's posterior, 8 channels; other programs store the logarithm
of the variance. A latent is ``mean + std · N(0, I)``, then ``x · scale + bias`` per channel by its kind
(:data:`sida.config.families.LATENTS`). A file ``latents.json`` of the archive says both; EDM2's archives have none.
Source: NVlabs/edm2:training/encoders.py; golden losses_edm2/latent_scaling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sida.config.families import EDM2_LATENTS, Latents
from sida.errors import UserError


class LatentScaling:
    """Converts raw latents of the VAE to network input of mean 0 and standard deviation 0.5 per channel, and back.

    Args:
        latents: Kind of latents, with means and standard deviations of raw ones.

    Attributes:
        scale: Factor per channel, float32 ``(C,)``.
        bias: Shift per channel, float32 ``(C,)``.
    """

    def __init__(self, latents: Latents = EDM2_LATENTS) -> None:
        mean, std = torch.tensor([latents.raw_mean, latents.raw_std], dtype=torch.float64)
        self.scale, self.bias = (0.5 / std).float(), (-mean * 0.5 / std).float()

    def sample(self, moments: torch.Tensor, noise: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Network input float32 ``(N, C, H, W)`` from moments ``(N, 2C, H, W)``; ``noise(x)`` is unit normal."""
        assert moments.shape[1] == 2 * len(self.scale)
        mean, std = moments.to(torch.float32).chunk(2, dim=1)
        latents = mean + noise(mean) * std
        return latents * self._per_channel(self.scale, latents) + self._per_channel(self.bias, latents)

    def to_raw(self, latents: torch.Tensor) -> torch.Tensor:
        """Converts network output to the VAE's raw latents, float32."""
        values = latents.to(torch.float32)
        return (values - self._per_channel(self.bias, values)) / self._per_channel(self.scale, values)

    @staticmethod
    def _per_channel(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return values.to(like.device)[:, None, None]


class LatentDecoder:
    """Converts network output to pixels: undoes the scaling, decodes, and makes bytes of u in [0, 1].

    Args:
        vae: Autoencoder (diffusers' ``AutoencoderKL``): ``vae.decode(x)`` has ``sample`` ``(N, 3, H, W)``. Latents are
            moved to its ``device``.
        latents: Their kind, which says whether samples are near [0, 1] or [-1, 1].
        batch_size: Images decoded at once (512×512 decoding needs about 1 GB per image in float32).
        rounded: Whether bytes are 255 u + 0.5 (127.5 x + 128 for x in [-1, 1], as in SiT and DiT), or else 255 u (as in
            EDM2 and REPA), both truncated.
    """

    def __init__(self, vae: Any, latents: Latents = EDM2_LATENTS, batch_size: int = 8, rounded: bool = False) -> None:
        self.vae, self.latents, self.batch_size, self.rounded = vae, latents, batch_size, rounded
        self.scaling = LatentScaling(latents)

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """uint8 ``(N, 3, H, W)`` on the autoencoder's device, from network output ``(N, C, h, w)`` on any device.

        Raises:
            UserError: The autoencoder gives NaN or infinity for latents without any.
        """
        parts = self.scaling.to_raw(latents).to(_device_of(self.vae, latents)).split(self.batch_size)
        return torch.cat([self._bytes(self._decoded(part)) for part in parts])

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Images of raw latents, in which NaN comes from the generator alone."""
        images = self.vae.decode(latents).sample
        finite = latents.flatten(1).isfinite().all(1)
        if not (finite.device.type == "meta" or images[finite].isfinite().all()):
            raise UserError("vae", "decodes latents without NaN to NaN or infinity", "use another autoencoder")
        return images

    def _bytes(self, x: torch.Tensor) -> torch.Tensor:
        if self.rounded:
            levels = x * 127.5 + 128 if self.latents.signed else x * 255 + 0.5
        else:
            levels = ((x + 1) / 2 if self.latents.signed else x).clamp(0, 1).mul(255)
        return levels.nan_to_num(nan=0.0).clamp(0, 255).to(torch.uint8)


class LatentEncoder:
    """Converts pixels to the VAE moments that latent data sets store.

    Args:
        vae: ``vae.encode(x).latent_dist`` has ``mean`` and ``std`` (diffusers' ``AutoencoderKL``). Images are moved to
            its ``device``.
        latents: Their kind, which says whether x is in [0, 1] or [-1, 1].
    """

    def __init__(self, vae: Any, latents: Latents = EDM2_LATENTS) -> None:
        self.vae, self.latents = vae, latents

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Moments float32 ``(N, 2C, h, w)`` from uint8 images ``(N, 3, H, W)``."""
        pixels = images.to(_device_of(self.vae, images), torch.float32)
        posterior = self.vae.encode(pixels / 127.5 - 1 if self.latents.signed else pixels / 255).latent_dist
        moments = torch.cat([posterior.mean, posterior.std], 1).to(torch.float32)
        assert moments.shape[:2] == (len(images), 2 * self.latents.channels)
        return moments


def _device_of(vae: Any, tensor: torch.Tensor) -> torch.device:
    """Device of an autoencoder; for a plain function, the device of the tensor."""
    return torch.device(getattr(vae, "device", tensor.device))
