"""Verbs of presets and finished results; see :mod:`sida.cli.main` for what each provides."""
