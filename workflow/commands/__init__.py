"""Verbs of presets and documentation, one module each; see :mod:`sida.cli.main` for what each provides."""
