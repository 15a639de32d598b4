"""Presets: settings and sample sheet, checked as a whole, with the jobs behind their products.

The workflow and the command line read presets with this package, so both accept the same files and report the same
faults.
"""

from workflow.preset.jobs import Preset

__all__ = ["Preset"]
