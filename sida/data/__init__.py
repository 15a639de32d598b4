"""Data sets, the order in which they are visited, and augmentation."""

from sida.data.dataset import Dataset
from sida.data.digits import Digits
from sida.data.load import DatasetConfig, load_dataset
from sida.data.order import InfiniteSampler

__all__ = ["Dataset", "DatasetConfig", "Digits", "InfiniteSampler", "load_dataset"]
