"""eval: features, metrics, protocols, tables, figures and claims for generators of any origin.

Names are loaded on first use: ``import eval`` imports no torch (docs/python.md). It registers what
trainings of ``sida`` need of this package, since ``sida`` does not import it.
"""

from eval.measuring.monitor_settings import MONITOR, MonitorSettings
from sida import late_names
from sida.config.judges import JUDGE_DIGESTS, JUDGE_ENTRY, MAKE_JUDGES
from sida.config.lookup import FOR_FILES

FOR_FILES[MONITOR] = MonitorSettings
MAKE_JUDGES.register("eval.measuring.judges:make_judges")
JUDGE_DIGESTS.register("eval.measuring.judges:judge_digests")
JUDGE_ENTRY.register("eval.features.registry:extractor_entry")

__getattr__, __dir__ = late_names(__name__)
