"""Latent data sets (EDM2, ImageNet 512): VAE moments to network input, and network output to pixels.

A stored item is the mean and standard deviation of the VAE's posterior, 8 channels. A latent is
``mean + std · N(0, I)``, then ``x · scale + bias`` per channel so that it has mean 0 and standard deviation 0.5.

Source: NVlabs/edm2:training/encoders.py; algorithm.md section EDM2; golden losses_edm2/latent_scaling.

Encoding of a data set of pixels to VAE moments, EDM2's training data.
"""

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sida.config.families import SD_VAE
from sida.config.resources import how_to_install
from sida.data.archive import Files, dataset_json, first_image, image_name
from sida.data.dataset import Dataset, ImageArchive
from sida.errors import Progress, UserError
from sida.files.atomic import atomic_path, zip_member


class LatentScaling:
    """Raw latents of the VAE to network input of mean 0 and standard deviation 0.5 per channel, and back.

    Args:
        raw_mean: Means of raw latents; those over ImageNet-512.
        raw_std: Standard deviations of raw latents.

    Attributes:
        scale: Factor per channel, float32 ``(C,)``.
        bias: Shift per channel, float32 ``(C,)``.
    """

    def __init__(
        self,
        raw_mean: Sequence[float] = (5.81, 3.25, 0.12, -2.15),
        raw_std: Sequence[float] = (4.17, 4.62, 3.71, 3.28),
    ) -> None:
        mean, std = torch.tensor([raw_mean, raw_std], dtype=torch.float64)
        self.scale, self.bias = (0.5 / std).float(), (-mean * 0.5 / std).float()

    def sample(self, moments: torch.Tensor, noise: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Network input float32 ``(N, C, H, W)`` from moments ``(N, 2C, H, W)``; ``noise(x)`` is unit normal."""
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


class LatentArchive(ImageArchive):
    """Data set of VAE moments (8-channel npy in a zip or folder); arguments as for :class:`ImageArchive`."""

    is_pixels = False

    def __init__(self, path: str | Files, name: str | None = None, **options: Any) -> None:
        super().__init__(path, name, **options)
        self.scaling = LatentScaling()
        if options.get("xflip"):
            raise UserError(self.files.path, "xflip has no meaning for latents", "leave it out")
        if self.num_channels != 2 * len(self.scaling.scale):
            fault = f"has {self.num_channels} channels, and is no archive of 4 means and 4 standard deviations"
            raise UserError(self.files.path, fault, "encode the images again (sida data encode)")

    @property
    def network_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of a latent: half the stored channels."""
        return (self.num_channels // 2, self.resolution, self.resolution)

    def network_input(
        self, batch: torch.Tensor, noise: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Samples latents from moments; ``noise(x)`` gives unit normal draws like ``x`` (None: torch's generator)."""
        return self.scaling.sample(batch, noise or torch.randn_like)


def open_archive(path: str, **options: Any) -> ImageArchive:
    """Opens an archive or folder: pixels as :class:`ImageArchive`, float32 arrays as :class:`LatentArchive`."""
    files = Files(path)
    kind = ImageArchive if first_image(files, files.pictures(arrays=True))[1] == np.uint8 else LatentArchive
    return kind(files, **options)


class LatentDecoder:
    """Network output to pixels: un-scale, decode, clamp to [0, 1], × 255, truncate (fact 25).

    Args:
        vae: Autoencoder (diffusers' ``AutoencoderKL``): ``vae.decode(x)`` has ``sample`` ``(N, 3, H, W)`` near [0, 1].
        scaling: Statistics of the latents.
        batch_size: Images decoded at once (512×512 decoding needs about 1 GB per image in float32).
    """

    def __init__(self, vae: Any, scaling: LatentScaling | None = None, batch_size: int = 8) -> None:
        self.vae, self.scaling, self.batch_size = vae, scaling or LatentScaling(), batch_size

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """uint8 ``(N, 3, H, W)`` from network output ``(N, C, h, w)``."""
        return torch.cat([self._decode(part) for part in self.scaling.to_raw(latents).split(self.batch_size)])

    def _decode(self, raw: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.vae.decode(raw).sample
        return pixels.clamp(0, 1).mul(255).to(torch.uint8)


class LatentEncoder:
    """Pixels to the VAE moments that latent data sets store.

    Args:
        vae: ``vae.encode(x).latent_dist`` has ``mean`` and ``std`` (diffusers' ``AutoencoderKL``); x in [0, 1].
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Moments float32 ``(N, 2C, h, w)`` from uint8 images ``(N, 3, H, W)``."""
        posterior = self.vae.encode(images.to(torch.float32) / 255).latent_dist
        return torch.cat([posterior.mean, posterior.std], 1).to(torch.float32)


def load_vae(path: str = SD_VAE.name, device: str | torch.device = "cpu") -> Any:
    """Loads diffusers' ``AutoencoderKL`` in evaluation mode, from local files only.

    Args:
        path: Folder with ``config.json`` and weights, or a name on the Hugging Face hub.
        device: Device of the autoencoder.

    Raises:
        UserError: The optional package is not installed, or the model does not exist.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        fault, remedy = "the package diffusers is not installed", how_to_install("diffusers>=0.27")
        raise UserError("latent diffusion", fault, remedy) from None
    try:
        vae = AutoencoderKL.from_pretrained(path, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(path, f"cannot load the VAE ({reason})", "fetch it with 'sida assets fetch'") from None
    return vae.eval().requires_grad_(False).to(device)


def encode_dataset(
    dataset: Dataset,
    out: str,
    encode: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int = 8,
    device: str = "cpu",
) -> tuple[int, ...]:
    """Writes ``00000/img-mean-std-00000000.npy`` … and ``dataset.json`` atomically to an archive.

    Args:
        dataset: Data set of RGB pixels.
        out: Zip to write.
        encode: Function from uint8 images to moments float32 ``(N, 2C, h, w)``, e.g. :class:`~sida.data.LatentEncoder`.
        batch_size: Images per call.
        device: Device of the images in the call.

    Returns:
        Channels, height and width of the latents.

    Raises:
        UserError: The data set is not RGB pixels, or an image is damaged.

    Source: NVlabs/edm2:dataset_tool.py (``encode``).
    """
    if not dataset.is_pixels or dataset.num_channels != 3:
        raise UserError(dataset.name, f"must be RGB pixels to be encoded, has {dataset.num_channels} channels")
    progress = Progress(f"encode {dataset.name}", len(dataset))
    names: list[str] = []
    shape: tuple[int, ...] = ()
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for start in range(0, len(dataset), batch_size):
            images = dataset.images(range(start, min(start + batch_size, len(dataset))))
            for moments in encode(images.to(device)).cpu().numpy():
                names.append(image_name(len(names), ".npy", "img-mean-std-"))
                stream = io.BytesIO()
                np.save(stream, np.ascontiguousarray(moments, dtype=np.float32))
                archive.writestr(zip_member(names[-1]), stream.getvalue())
                shape = moments.shape
            progress.update(len(names))
        classes = dataset.class_indices.tolist() if dataset.label_dim else None
        archive.writestr(zip_member("dataset.json"), dataset_json(None if classes is None else zip(names, classes)))
    progress.update(len(names), force=True)
    return shape
