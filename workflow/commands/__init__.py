"""Verbs of presets and documentation, one module each; see :mod:`sida.cli` for what each provides."""
