"""Drawing of images: combines sampler, network, guide, decoder and data set in one object; grids of samples.

A grid has one row per class and the same seeds for every generator (the layout of Figures 6–10).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from sida.config.datasets import LabelCounts
from sida.config.families import Decoder
from sida.config.samplers import Sampler
from sida.data.dataset import Dataset
from sida.data.pictures import encode_png
from sida.errors import UserError
from sida.files.atomic import atomic_path
from sida.networks import family_of
from sida.sampling.generate import Evaluations, Samples, generate, real_images
from sida.sampling.networks import open_decoder
from sida.sampling.seeds import SeedStreams


@dataclasses.dataclass
class Drawer:
    """Draws images for seeds, for ``sida sample``, measurements, evaluations during training and figures.

        drawer = Drawer(read_sampler("heun:32,guidance=1.4"), net, guide=gnet, device="cuda")
        for seeds, images, classes in drawer.draw(range(50_000), batch_size=128): ...

    Attributes:
        sampler: Sampler and its settings.
        net: Generator or teacher on ``device``; None for the sampler ``data``.
        guide: Guiding network.
        dataset: Function that opens the data set of the sampler ``data`` and of ``empirical`` classes; called only for
            these.
        vae: Folder of the decoder of latents; None takes the registered decoder.
        device: Device that decodes latents.
    """

    sampler: Sampler
    net: torch.nn.Module | None = None
    guide: torch.nn.Module | None = None
    dataset: Callable[[], Dataset | None] = lambda: None
    vae: str | None = None
    device: str = "cpu"

    @property
    def nfe(self) -> int:
        """Network evaluations per image."""
        return self.sampler.nfe

    @property
    def label_dim(self) -> int:
        """Number of the network's classes; 0 for a network without classes."""
        return int(getattr(self.net, "label_dim", 0))

    @property
    def draws_latents(self) -> bool:
        """Whether the samples are latents, which need a decoder."""
        if self.net is not None:
            return latent_decoder(self.net) is not None
        dataset = self.dataset()
        return dataset is not None and not dataset.is_pixels

    @functools.cached_property
    def decode(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Decoder of latents, opened at its first use; None for pixels."""
        return open_decoder(self.vae, self.device) if self.draws_latents else None

    @functools.cached_property
    def _evaluations(self) -> Evaluations:
        """Evaluations of the networks with their recorded graphs, shared by all draws."""
        return Evaluations.on(next(iter(self.net.parameters())).device if self.net is not None else torch.device("cpu"))

    def draw(
        self,
        seeds: Sequence[int],
        batch_size: int,
        class_labels: str | int | Sequence[int] | LabelCounts = "uniform",
        output_device: str = "cpu",
    ) -> Iterator[Samples]:
        """Yields images for seeds, in order; arguments and errors are those of :func:`sida.sampling.generate`."""
        needs_data = not self.sampler.needs_network or (class_labels == "empirical" and self.label_dim)
        dataset = self.dataset() if needs_data else None
        return generate(
            self.net,
            seeds,
            self.sampler,
            batch_size,
            class_labels,
            dataset,
            self.guide,
            self.decode,
            output_device,
            self._evaluations,
        )

    def grid(self, rows: int, columns: int, first_seed: int, batch_size: int) -> torch.Tensor:
        """Returns the images uint8 ``(rows·columns, C, H, W)`` of a grid.

        Row r shows class ``r mod label_dim`` with seeds ``first_seed + r * columns + column``.
        """
        classes = row_classes(rows, columns, self.label_dim) or "uniform"
        seeds = range(first_seed, first_seed + rows * columns)
        return torch.cat([batch.images for batch in self.draw(seeds, batch_size, classes)])

    def real(self, indices: Sequence[int]) -> torch.Tensor:
        """Returns images of the data set by index, uint8 ``(N, C, H, W)``, with latents decoded.

        Raises:
            UserError: The drawer has no data set.
        """
        dataset = self.dataset()
        if dataset is None:
            raise UserError("real images", "there is no data set", "give one")
        return real_images(dataset, indices, SeedStreams(indices), self.decode)


def latent_decoder(net: torch.nn.Module) -> Decoder | None:
    """Decoder of a network's latents, as defined by its family; None for a network of pixels."""
    return family_of(net).decoder_of(int(getattr(net, "img_channels", 0)))


#: Default number of rows and columns.
SIDE = 8
_BATCH = 64


class Pictures:
    """Draws a square grid: row r shows class r (modulo the number of classes), columns show different seeds.

    Args:
        sampler: Sampler of the network.
        side: Rows and columns. None takes 8 for grey and RGB pixels and 0 (no picture) for anything else.
        device: Device that decodes latents.
    """

    def __init__(self, sampler: Sampler, side: int | None, device: str) -> None:
        self.drawer, self.side = Drawer(sampler, device=device), side

    def __call__(self, net: torch.nn.Module, path: Path) -> None:
        """Writes the grid of a network as PNG, unless ``side`` is 0; opens a decoder once."""
        self.drawer.net = net
        side = self.side
        if side is None:
            side = SIDE if net.img_channels in (1, 3) and not self.drawer.draws_latents else 0
        if side:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_grid(path, self.drawer.grid(side, side, 0, _BATCH), side)


def row_classes(rows: int, columns: int, label_dim: int) -> list[int]:
    """Classes of a grid in reading order: row r shows class ``r mod label_dim``; empty without classes."""
    return [(place // columns) % label_dim for place in range(rows * columns)] if label_dim else []


def tile(images: torch.Tensor, columns: int, gap: int = 0, fill: Sequence[int] = (255,)) -> torch.Tensor:
    """Arranges images uint8 ``(N, C, h, w)`` in one image ``(C, H, W)``, row by row.

    Args:
        images: Images.
        columns: Images per row.
        gap: Pixels between images.
        fill: Colour of gaps and empty cells: one value for all channels, or one per channel.
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    padded = torch.empty((rows * columns, channels, height + gap, width + gap), dtype=torch.uint8)
    padded[:] = torch.tensor(fill, dtype=torch.uint8)[:, None, None]
    padded[:count, :, :height, :width] = images
    picture = padded.reshape(rows, columns, channels, height + gap, width + gap).permute(2, 0, 3, 1, 4)
    picture = picture.reshape(channels, rows * (height + gap), columns * (width + gap))
    return picture[:, : picture.shape[1] - gap, : picture.shape[2] - gap].contiguous()


def save_grid(path: str | os.PathLike[str], images: torch.Tensor, columns: int, gap: int = 0, scale: int = 1) -> None:
    """Writes a grid as PNG, each pixel ``scale`` × ``scale``.

    Args:
        path: PNG file; written atomically.
        images: uint8 ``(N, C, H, W)`` with 1 or 3 channels.
        columns: Images per row.
        gap: White pixels between images, before scaling.
        scale: Whole-number enlargement, without smoothing.

    Raises:
        UserError: The images are neither grey nor RGB.
    """
    if images.shape[1] not in (1, 3):
        raise UserError(path, f"a picture needs 1 or 3 channels, got {images.shape[1]}", "decode latents first (--vae)")
    picture = tile(images, columns, gap).permute(1, 2, 0).numpy()
    enlarged = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(enlarged))
