"""``python -m sida``."""

from sida.cli import main

raise SystemExit(main())
