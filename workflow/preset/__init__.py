"""A preset as Python: its settings and sheet, checked as a whole, and a spec for every job."""

from workflow.preset.specs import Preset

__all__ = ["Preset"]
