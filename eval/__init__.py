"""Features, metrics, protocols, tables, figures and claims for generators of any origin.

Names are loaded on first use: ``import sida.eval`` imports no torch (docs/python.md). It registers what
trainings of ``sida`` need of this package, since they do not import it.
"""

import sys
import warnings

from sida import late_names
from sida.config.lookup import FOR_FILES
from sida.eval.measuring.monitor_settings import MONITOR, MonitorSettings

FOR_FILES[MONITOR] = MonitorSettings

__getattr__, __dir__ = late_names("sida.eval")

if __name__ == "eval":
    # The former name, which a checkout's root still offers for one release; the import above has made the package.
    warnings.warn("'eval' is now 'sida.eval': import sida.eval", FutureWarning, stacklevel=2)
    sys.modules["eval"] = sys.modules["sida.eval"]
    sys.modules["eval.results"] = sys.modules["sida.eval"].results
