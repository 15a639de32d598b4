"""eval: features, metrics, protocols, tables, figures and claims for generators of any origin.

Names are loaded on first use: ``import eval`` imports no torch (docs/python.md).
"""

from sida import late_names

__getattr__, __dir__ = late_names(__name__)
