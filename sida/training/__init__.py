"""Training: the engine that teachers and students share, and the training of teachers.

Names are loaded on first use, so that errors of a configuration are reported before torch is imported.
"""

from sida import late_names

__getattr__, __dir__ = late_names(__name__)
