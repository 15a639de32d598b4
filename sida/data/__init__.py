"""Data sets, the order in which they are visited, and augmentation."""

from sida.data.augment import OFFICIAL_FLAGS, AugmentPipe
from sida.data.dataset import Dataset
from sida.data.digits import Digits
from sida.data.load import DatasetConfig, load_dataset
from sida.data.order import InfiniteSampler

__all__ = ["OFFICIAL_FLAGS", "AugmentPipe", "Dataset", "DatasetConfig", "Digits", "InfiniteSampler", "load_dataset"]
