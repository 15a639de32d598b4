"""``python -m workflow VERB``: the command ``sida``."""

import sys

from workflow.cli import main

sys.exit(main())
