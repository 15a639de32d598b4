"""Verbs of the ``sida`` command line, one module each; :mod:`sida.cli.main` documents their interface."""
