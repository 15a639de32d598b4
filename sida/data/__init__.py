"""Data sets, their order in training, and augmentation."""

from sida import late_names

__getattr__, __dir__ = late_names(__name__)
