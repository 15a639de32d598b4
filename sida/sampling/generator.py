"""A generator for Python: its images by seed, as ``sida sample`` draws them, and the facts of its file."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.config.samplers import Sampler, read_sampler
from sida.errors import UserError
from sida.machine import tf32
from sida.networks.file import load_network
from sida.networks.official import describe_file
from sida.sampling.drawer import Drawer
from sida.sampling.job import open_device
from sida.sampling.networks import network_file

#: Images per network call of ``sida sample``; part of the settings that decide the bytes.
_BATCH = 64


class LoadedGenerator:
    """A network with a sampler; :func:`load` makes one.

    Attributes:
        path: Network file (safetensors) that was loaded.
        sampler: How images are drawn.
        guide: File of the guiding network, or None.
        vae: Folder of the decoder of latents; None takes the registered one.
        device: Torch device.
        net: The network, for calls of your own: ``g.net(x, sigma, class_labels)``.
    """

    def __init__(self, path: Path, sampler: Sampler, guide: Path | None, vae: str | None, device: str) -> None:
        self.path, self.sampler, self.guide, self.vae, self.device = path, sampler, guide, vae, device
        self.net, _ = load_network(path, device)
        guiding = None if guide is None else load_network(guide, device)[0]
        self._drawer = Drawer(sampler, self.net, guiding, vae=vae, device=device)

    def __repr__(self) -> str:
        sampler = f"{self.sampler.kind}:{self.sampler.steps}"
        return f"LoadedGenerator('{self.path}', sampler='{sampler}', classes={self.label_dim}, device='{self.device}')"

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """Architecture, parameters, digest and provenance of the file: the facts of ``sida info --json``."""
        return describe_file(self.path)

    @property
    def label_dim(self) -> int:
        """Number of classes; 0 for a network without classes."""
        return self._drawer.label_dim

    def sample(
        self,
        count: int | Sequence[int],
        seed: int = 0,
        classes: int | Sequence[int] | None = None,
        batch_size: int = _BATCH,
    ) -> np.ndarray:
        """Draws images, equal byte by byte to those of ``sida sample`` at the same batch size on the same device.

        Args:
            count: Number of images, for the seeds ``seed … seed + count − 1``; or the seeds themselves.
            seed: First seed.
            classes: One class for all images, or a class for each; None draws classes uniformly, by seed.
            batch_size: Images per network call; other sizes may change single levels by 1.

        Returns:
            uint8 ``(N, C, H, W)``, in the order of the seeds.

        Raises:
            UserError: A text as number, no image asked for, a negative seed, a class that the network does not have,
                or a broken network.
        """
        if isinstance(count, (str, bytes, float)):
            kind = "number" if isinstance(count, float) else "text"
            raise UserError("sample", f"takes a whole number of images or a list of seeds, got the {kind} {count!r}")
        seeds = range(seed, seed + int(count)) if isinstance(count, (int, np.integer)) else [int(one) for one in count]
        if not seeds or min(seeds) < 0:
            raise UserError("sample", f"takes at least one image and no negative seed, got {count} from seed {seed}")
        self._drawer.device = str(next(self.net.parameters()).device)
        chosen = "uniform" if classes is None else np.asarray(classes, int).tolist()
        with tf32(False):
            return torch.cat([part.images for part in self._drawer.draw(seeds, batch_size, chosen)]).numpy()


def load(
    source: str | Path,
    sampler: str | Mapping[str, Any] | Sampler = "one_step",
    guide: str | Path | None = None,
    vae: str | None = None,
    device: str | None = None,
) -> LoadedGenerator:
    """Loads a generator or teacher.

    >>> g = sida.load("results/demo/students/sida-a1.0/network.safetensors")
    >>> images = g.sample(64, seed=0)

    Args:
        source: Network file, folder of a run or of ``sida export``, published pickle, id of ``sida assets list``, or
            address (``https://``, ``hf://``). The file of an id or address is fetched and checked at first use.
        sampler: ``one_step``, or ``heun:18`` for a teacher; settings as of ``sida sample --sampler``.
        guide: Guiding network of a sampler with guidance; named like ``source``.
        vae: Folder of the decoder of latent networks; None takes the registered one.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes a GPU if there is one.

    Raises:
        UserError: No such file or id, a damaged file, or settings that the sampler does not have.
    """
    guiding = None if guide is None else network_file(str(guide))
    return LoadedGenerator(network_file(str(source)), read_sampler(sampler), guiding, vae, open_device(device))
