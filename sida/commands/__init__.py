"""One module per verb of the ``sida`` command line; see :mod:`sida.cli` for what each provides."""
