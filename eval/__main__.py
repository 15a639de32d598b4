"""``python -m eval``."""

from eval.commands import main

raise SystemExit(main())
