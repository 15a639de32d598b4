"""Data sets, their order in training, and augmentation."""

from sida.config.datasets import DatasetConfig
from sida.data.archive import ImageArchive
from sida.data.augment import AugmentPipe
from sida.data.dataset import Dataset, read_batches
from sida.data.digits import Digits
from sida.data.latents import LatentArchive, LatentDecoder, LatentEncoder, LatentScaling, load_vae, open_archive
from sida.data.load import load_dataset
from sida.data.order import InfiniteSampler

__all__ = [
    "AugmentPipe",
    "Dataset",
    "DatasetConfig",
    "Digits",
    "ImageArchive",
    "InfiniteSampler",
    "LatentArchive",
    "LatentDecoder",
    "LatentEncoder",
    "LatentScaling",
    "load_dataset",
    "load_vae",
    "open_archive",
    "read_batches",
]
