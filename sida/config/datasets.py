"""Settings of data sets, and lookup of data sets by name in ``config/datasets.yaml`` and presets."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from sida.config.families import LATENTS, Spread
from sida.config.named_files import find_file, find_path
from sida.config.registries import Registry
from sida.config.settings import Count, Natural, OneOf, Settings, load_yaml
from sida.errors import SettingError, UserError, suggestion

#: Kinds of data sets: what opens them, see :func:`sida.data.load_dataset`.
DATASET_KINDS: Registry[Any] = Registry("dataset_kinds", "kind of data set")
_STORED = ("zip", "folder")
#: Parts of the digits: all images, images for training, and images that no training sees.
Split = Literal["all", "train", "held-out"]
#: Methods of cropping images to squares, see :mod:`sida.data.prepare`.
Transform = Literal["none", "center-crop", "center-crop-dhariwal"]
KindName = Annotated[str, OneOf(lambda: DATASET_KINDS, or_object=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSettings(Settings):
    """A data set as written in ``config/datasets.yaml`` under its name.

    Attributes:
        kind: ``digits`` (embedded), ``zip`` (EDM format), ``folder`` (an unpacked ``zip``), ``counts`` (classes without
            images), or a custom ``module:function``.
        path: Archive or folder, relative to the preset's folder; not for ``digits`` and ``counts``.
        resolution: Expected height and width; null accepts any.
        channels: Expected channels; null accepts any number.
        label_dim: Expected number of classes; null accepts any number, 0 leaves labels out.
        num_images: Expected number of images; null accepts any number.
        labels: False leaves labels out (an unconditional data set).
        max_size: Largest number of images to keep, drawn by ``random_seed``.
        random_seed: Seed of the draw of ``max_size``.
        xflip: Append mirrored copies.
        split: Part of the digits: ``all`` (1797 images), ``train`` (1497), or ``held-out`` (300, 30 of each class; the
            feature network ``digits`` was not trained on them either).
        cache: Keep images in memory once they are read.
        sha256: Expected digest; null accepts any.
        counts: Class counts, for methods that need no image and then no archive: a name of ``config/labels``, a
            ``.json`` file, an asset, or ``none`` without classes; null: such methods read the archive.
        latents: Kind of an archive of latents, which only networks of that kind take: ``edm2``, or ``sd`` (SiT, REPA,
            DiT); null takes the recorded one, else EDM2's.
        spread: Second half of an archive of latents: ``std``, standard deviations, or ``logvar``, logarithms of
            variances (U-ViT, MaskDiT, LDM); null takes the recorded one, else ``std``.
    """

    kind: KindName
    path: str | None = None
    resolution: Count | None = None
    channels: Count | None = None
    label_dim: Natural | None = None
    num_images: Count | None = None
    labels: bool = True
    max_size: Count | None = None
    random_seed: Natural = 0
    xflip: bool = False
    split: Split = "all"
    cache: bool = False
    sha256: str | None = None
    counts: str | None = None
    latents: Annotated[str, OneOf(LATENTS.keys)] | None = None
    spread: Spread | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (self.counts, self.resolution, self.channels, self.num_images)
        if (self.kind == "counts" or self.counts is not None) and None in sizes:
            raise SettingError("counts", "counting classes needs counts, resolution, channels and num_images")
        subject = f"a data set of kind '{self.kind}'"
        if self.kind in _STORED and self.path is None:
            raise SettingError("path", f"{subject} needs one", "give the file or folder")
        if self.kind in _STORED and self.split != "all":
            raise SettingError("split", f"{subject} has none", "remove this key (max_size takes a part)")
        # A custom kind may read a path.
        if self.kind in DATASET_KINDS and self.kind not in _STORED and self.path is not None:
            raise SettingError("path", f"{subject} is not read from a file", "remove this key")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig(DatasetSettings):
    """A data set.

    Attributes:
        name: Short name for records.
    """

    name: str


_shared = functools.cache(load_yaml)


def dataset_spec(name: str, where: str, brought: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Looks a data set up; its spec carries its ``name``.

    Args:
        name: Key of ``brought``, or of ``config/datasets.yaml``.
        where: File and key named in errors.
        brought: Data sets of a preset, which take precedence.

    Raises:
        UserError: There is no data set of that name, or its entry is not a mapping.
    """
    spec = {"name": name, **dataset_entry(name, where, brought)}
    spec.pop("made_from", None)
    if spec.get("kind") != "counts":
        spec.pop("counts", None)
    return spec | ({"path": find_path(spec["path"])} if spec.get("path") else {})


def dataset_entry(name: str, where: str, brought: Mapping[str, Mapping[str, Any]] | None = None) -> Mapping[str, Any]:
    """A data set's settings as they are written; arguments and errors are those of :func:`dataset_spec`."""
    entries = {**_shared(find_file("", "datasets").absolute()), **(brought or {})}
    if name not in entries:
        raise UserError(where, f"no data set '{name}' in config/datasets.yaml{suggestion(name, entries)}")
    if not isinstance(entry := entries[name], Mapping):
        raise UserError(f"{where}: {name}", "must be a mapping of settings", "give at least its kind")
    return entry
