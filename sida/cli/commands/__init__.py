"""One module per verb of the ``sida`` command line; see :mod:`sida.cli.main` for what each provides."""
