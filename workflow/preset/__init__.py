"""Presets: settings and sample sheet, checked together, and the jobs behind their products.

The workflow and the command line read presets with this package, so both accept the same files and report the same
faults.
"""

from sida.workflow.preset.preset import Preset
from sida.workflow.preset.reading import load_preset, preset_from

__all__ = ["Preset", "load_preset", "preset_from"]
