"""``python -m workflow VERB``: the command ``sida`` with the verbs of all packages."""

import sys

from workflow.cli import sida_main

sys.exit(sida_main())
