"""Distillation methods: their definition, the registry, one file per method, recipes and their resolution.

Names are loaded on first use, so that command lines can list the methods without importing torch.
"""

from sida import late_names

__getattr__, __dir__ = late_names(__name__)
