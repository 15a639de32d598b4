"""Runs the command line: ``python -m sida``."""

from sida.cli.main import main

raise SystemExit(main())
