"""Verbs of measuring, each a :class:`sida.cli.main.Verb` that :mod:`sida.workflow.cli` names."""
