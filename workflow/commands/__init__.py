"""Verbs of presets and finished results, each a :class:`sida.cli.main.Verb`."""
