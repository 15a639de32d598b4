"""Everything that images are drawn with, in one object: sampler, network, guide, decoder, data set."""

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
    """Draws images for seeds; ``sida sample``, measurements, evaluations during training and figures go through it.

        drawer = Drawer(read_sampler("heun:32,guidance=1.4"), net, guide=gnet, device="cuda")
        for seeds, images, classes in drawer.draw(range(50_000), batch_size=128): ...

    Attributes:
        sampler: What is done with the network.
        net: Generator or teacher on ``device``; None for the sampler ``data``.
        guide: Guiding network.
        dataset: Opens the data set that ``data`` resamples and that ``empirical`` classes come from; only called for
            these.
        vae: Folder of the decoder of latents; None takes the registered one.
        device: Where latents are decoded.
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
        """Number of the network's classes; 0 without."""
        return int(getattr(self.net, "label_dim", 0))

    @property
    def draws_latents(self) -> bool:
        """Whether what is drawn must be decoded to be seen."""
        if self.net is not None:
            return latent_decoder(self.net) is not None
        dataset = self.dataset()
        return dataset is not None and not dataset.is_pixels

    @functools.cached_property
    def decode(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Makes latents visible, opened when first needed; None for pixels."""
        return open_decoder(self.vae, self.device) if self.draws_latents else None

    @functools.cached_property
    def _evaluations(self) -> Evaluations:
        """Recordings of the networks, for all draws."""
        return Evaluations.on(next(iter(self.net.parameters())).device if self.net is not None else torch.device("cpu"))

    def draw(
        self,
        seeds: Sequence[int],
        batch_size: int,
        class_labels: str | int | Sequence[int] | LabelCounts = "uniform",
        output_device: str = "cpu",
    ) -> Iterator[Samples]:
        """Images for seeds, in order; arguments and errors as for :func:`sida.sampling.generate`."""
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
        """Images uint8 ``(rows·columns, C, H, W)`` for a grid.

        Row r shows class ``r mod label_dim`` with seeds ``first_seed + r * columns + column``.
        """
        classes = row_classes(rows, columns, self.label_dim) or "uniform"
        seeds = range(first_seed, first_seed + rows * columns)
        return torch.cat([batch.images for batch in self.draw(seeds, batch_size, classes)])

    def real(self, indices: Sequence[int]) -> torch.Tensor:
        """Images of the data set at these places, uint8 ``(N, C, H, W)``, latents decoded.

        Raises:
            UserError: There is no data set.
        """
        dataset = self.dataset()
        if dataset is None:
            raise UserError("real images: there is no data set; give one")
        return real_images(dataset, indices, SeedStreams(indices), self.decode)


def latent_decoder(net: torch.nn.Module) -> Decoder | None:
    """The decoder of what a network draws, as its family says; None where it draws pixels."""
    return family_of(net).decoder_of(int(getattr(net, "img_channels", 0)))


#: Rows and columns where nobody says how many.
SIDE = 8
_BATCH = 64


class Pictures:
    """Draws a square grid: row r shows class r (modulo their number), columns other seeds.

    Args:
        sampler: How the network draws.
        side: Rows and columns; None takes 8, and 0 of what is no picture without more: latents, other channels.
        device: Where latents are decoded.
    """

    def __init__(self, sampler: Sampler, side: int | None, device: str) -> None:
        self.drawer, self.side = Drawer(sampler, device=device), side

    def __call__(self, net: torch.nn.Module, path: Path) -> None:
        """Writes the picture of a network as PNG, if there is to be one; a decoder is opened once."""
        self.drawer.net = net
        side = self.side
        if side is None:
            side = SIDE if net.img_channels in (1, 3) and not self.drawer.draws_latents else 0
        if side:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_grid(path, self.drawer.grid(side, side, 0, _BATCH), side)
