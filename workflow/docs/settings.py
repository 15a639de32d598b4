"""Tables of settings for the documentation, and the JSON schemas that editors read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from eval.claims.experiments import Experiment, Experiments
from eval.measuring.kinds import METRIC_KINDS
from eval.measuring.metric import Metric
from eval.measuring.protocol import Protocol, ReferenceSource
from eval.results.analyses import AnalysisEntry
from eval.results.exchange import ExchangedMetric
from eval.results.sheet import Run
from sida.config.augmentation import AugmentConfig, AugmentFlags
from sida.config.datasets import DatasetEntry, MadeFrom
from sida.config.method_options import DMD2Options, DMDOptions, FDistillOptions, GDDOptions, InstanceOptions
from sida.config.samplers import Sampler
from sida.errors import UserError, suggestion
from sida.methods.cd import CDOptions
from sida.methods.ect import ECTOptions
from sida.methods.sida_discriminator import SiDAOptions
from sida.methods.uni_instruct import UniInstructOptions
from sida.training.config import NetworkConfig, Recipe, RecipeEvaluation, TeacherTraining
from workflow.docs.schema import descriptions, json_schema, settings_table
from workflow.docs.words import block
from workflow.planning.site import Site
from workflow.preset.settings import PresetSettings, TeacherEntry

#: Classes of settings by the anchor of their table in docs/settings.md.
SETTINGS: dict[str, type] = {
    "preset": PresetSettings,
    "sheet": Run,
    "experiment": Experiment,
    "teacher": TeacherEntry,
    "network": NetworkConfig,
    "training": TeacherTraining,
    "recipe": Recipe,
    "sida-options": SiDAOptions,
    "gdd-options": GDDOptions,
    "instance-options": InstanceOptions,
    "dmd-options": DMDOptions,
    "dmd2-options": DMD2Options,
    "f-distill-options": FDistillOptions,
    "uni-instruct-options": UniInstructOptions,
    "ect-options": ECTOptions,
    "cd-options": CDOptions,
    "evaluation": RecipeEvaluation,
    "analysis": AnalysisEntry,
    "augment": AugmentConfig,
    "flags": AugmentFlags,
    "dataset": DatasetEntry,
    "made-from": MadeFrom,
    "sampler": Sampler,
    "protocol": Protocol,
    "metric": Metric,
    "reference": ReferenceSource,
    "site": Site,
}
#: Settings with schemas for editors: ``# yaml-language-server: $schema=...``; and exchanged numbers.
SCHEMAS = {"preset": PresetSettings, "protocol": Protocol, "experiments": Experiments, "measurement": ExchangedMetric}


def settings(name: str) -> str:
    """Table of a class of settings, by its name in :data:`SETTINGS`."""
    if name not in SETTINGS:
        raise UserError(f"no settings '{name}'{suggestion(name, SETTINGS)}")
    return f"\n\n{settings_table(SETTINGS[name], {cls: f'#{word}' for word, cls in SETTINGS.items()})}\n\n"


def kinds() -> str:
    """Table of metric kinds with their inputs, and their settings with defaults."""
    common = {field.name for field in dataclasses.fields(Metric)}
    lines = ["| kind | what | reference | keeps features | better | its own settings |", "|---|---|---|---|---|---|"]
    for name, cls in METRIC_KINDS.items():
        texts = descriptions(cls)
        own = [f"`{f.name}` ({_default(f)}): {texts[f.name]}" for f in dataclasses.fields(cls) if f.name not in common]
        what = str(cls.__doc__).partition("\n")[0].rstrip(".")
        needs = ("yes" if flag else "" for flag in (cls.real is not None, cls.generated == "features"))
        lines.append(f"| `{name}` | {' | '.join([what, *needs, cls.better, ' '.join(own)])} |")
    return block(lines)


def _default(field: dataclasses.Field[object]) -> object:
    return "required" if field.default is dataclasses.MISSING else field.default


def schemas(root: Path) -> dict[Path, str]:
    """Content of the files in ``workflow/schemas``."""
    found = {name: json_schema(cls) for name, cls in SCHEMAS.items()}
    protocol = found["protocol"]
    protocol["properties"]["extends"] = {
        "type": "string",
        "description": "Protocol in this folder with the other keys.",
    }
    protocol["anyOf"] = [{"required": keys} for keys in (protocol.pop("required"), ["extends"])]
    folder = root / "workflow" / "schemas"
    return {folder / f"{name}.schema.json": json.dumps(schema, indent=1) + "\n" for name, schema in found.items()}
