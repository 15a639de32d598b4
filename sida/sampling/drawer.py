"""Drawing of images: combines sampler, network, guide, decoder and data set in one object."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from sida.config.families import Decoder
from sida.config.label_counts import LabelCounts
from sida.config.samplers import Sampler
from sida.data.dataset import Dataset
from sida.errors import UserError
from sida.networks import family_of
from sida.sampling.generate import Samples, generate, real_images
from sida.sampling.grid import row_classes, save_grid
from sida.sampling.networks import open_decoder
from sida.sampling.replay import Evaluations
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
        needs_data = self.sampler.kind == "data" or (class_labels == "empirical" and self.label_dim)
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
            raise UserError("real images: there is no data set; give one")
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
