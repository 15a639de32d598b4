"""One module per verb of the ``sida-eval`` command line; see :mod:`sida.cli` for what each provides."""
