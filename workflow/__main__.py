"""``python -m sida.workflow VERB``: the command ``sida``."""

import sys

from sida.workflow.cli import main

sys.exit(main())
