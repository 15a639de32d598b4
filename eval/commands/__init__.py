"""Verbs of measuring, each a :class:`sida.cli.main.Verb` that :mod:`workflow.cli` names."""
