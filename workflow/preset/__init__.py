"""A preset as Python: its settings and sheet, checked as a whole, and a spec for every job."""

from workflow.preset.job_specs import Preset

__all__ = ["Preset"]
