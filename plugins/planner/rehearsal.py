"""Rehearsal of a preset: all steps from published files to tables, with random networks.

The published files are replaced by stand-ins in the authors' formats: pickles and state dicts of networks of the same
architecture, Inception and other judges, the decoder of latents, statistics, class lists and data sets of references.
Networks have random weights; DINOv2 is one layer. A trial has few images, a sampler of hundreds of steps two. A wrong
path, a missing package and a full disk show in minutes, before a card is rented. Networks have their true size, unless
the preset trains some: then they are small transformers that take a few steps
(:mod:`sida.plugins.planner.small`), the decoder is narrow, and large judges, which the preset of the teachers
rehearses, are left out.
No number means anything: titles, captions and rows say so, and the protocols are marked as a rehearsal, which is part
of a value's identity, so that it is comparable with no measurement.
"""

import filecmp
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sida.assets.registry import ASSET_COLUMNS, Asset, load_registry
from sida.config.datasets import dataset_entry
from sida.config.settings import load_spec
from sida.errors import UserError, say
from sida.eval.measuring.protocol import load_protocol, read_protocol
from sida.eval.results.extended import read_extended
from sida.eval.results.sheet import read_runs
from sida.eval.tables.layout import with_values
from sida.files.atomic import sha256_file, write_json, write_text
from sida.files.text_files import yaml_text
from sida.plugins.planner.small import (
    EVALUATED,
    encoded,
    small_network,
    small_trainings,
    training_datasets,
    trains,
    without_judges,
)
from sida.plugins.planner.stand_ins import IMAGES, maker
from sida.workflow.preset import Preset, load_preset
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.jobs import measurement, training

#: Images of a trial of latents, whose decoder takes minutes for a hundred on a processor; of pixels there are more.
DECODED = 4
#: Steps of a sampler above which a rehearsal takes two; and images of a data set of references.
MOST_STEPS, REFERENCES = 100, 8
MARK = "REHEARSAL with random networks: no number means anything"


def write_rehearsal(
    files: Sequence[Path], targets: Sequence[str] = (), dry_run: bool = False
) -> tuple[Path, dict[str, str]]:
    """Writes stand-ins of the published files, and a preset on top of another one that measures them.

    Args:
        files: Files of the preset.
        targets: Rows, of which alone the files are made; none or other targets: all rows.
        dry_run: Write the files that decide the jobs, and no weights, which have gigabytes.

    Returns:
        The file of the preset, to be given after the others, and environment variables for its run.

    Raises:
        UserError: The preset trains or measures no network, or a published file has no stand-in.
    """
    base = load_preset(*files)
    small = small_trainings(base) if trains(base) else None
    if not base.measurable:
        raise UserError(f"--rehearse {base.name}", "measures no network", "rehearse a preset of published files")
    folder = Path("results") / f"rehearsal-{base.name}" / "rehearsal"
    rows = [name for name in targets if name in base.measurable] or list(base.measurable)
    registry = load_registry()
    makers = {name: maker(registry[name], base) for name in _assets(base, rows) if name in registry}
    _write_preset(base, folder, _write_datasets(base, folder), small or {})
    rehearsed = load_preset(*files, folder / "preset.yaml")
    check_preset(rehearsed)
    asset_names = _assets(rehearsed, rows)
    for name, make in makers.items():
        asset, path = registry[name], folder / "cache" / registry[name].target
        if name in asset_names and not path.exists() and (asset.kind == "code" or not dry_run):
            say(f"[rehearsal] {asset.id}: random, in the format of {asset.source or asset.kind}")
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
    _write_registry(registry, folder, asset_names if small is not None else [])
    paths = {"SIDA_CACHE": folder / "cache", "SIDA_ASSETS": folder / "assets.tsv"}
    return folder / "preset.yaml", {name: str(path.absolute()) for name, path in paths.items()}


def _assets(preset: Preset, rows: Sequence[str]) -> list[str]:
    """Published files that measurements and trainings of rows read, with those of the networks that they import."""
    lineages = [preset.rows[preset.runs[row].first].lineage() for row in rows]
    training_names = dict.fromkeys(row.run for row in itertools.chain(*lineages) if row.method is not None)
    jobs = [measurement(preset, row) for row in rows]
    jobs += [training(preset, name) for name in training_names]
    assets = [name for job in jobs for name in job.needs.get("downloads", [])]
    assets += [preset.imports[name] for job in jobs for name in job.needs.get("imports", [])]
    return [*dict.fromkeys(assets)]


def _write_datasets(base: Preset, folder: Path) -> dict[str, dict[str, Any]]:
    """Writes archives of random images for data sets of references and trainings; returns their settings.

    Archives of latents are not written: the workflow encodes them.
    """
    from sida.data.pictures import encode_png
    from sida.data.prepare import write_archive

    fixed = {name: at for run in base.measurable for at, name in base.rows[run].protocol.fixed_datasets().items()}
    waiting = sorted(fixed.items())
    waiting += [(name, base.source) for name in sorted(training_datasets(base)) if trains(base)]
    entries = dict[str, dict[str, Any]]()
    for name, where in waiting:
        entry = dict(dataset_entry(name, where, base.settings.datasets))
        if entry.get("path") is None or name in entries:
            continue
        if source := (entry.get("made_from") or {}).get("dataset"):
            entries[name] = encoded(entry, folder, name, REFERENCES)
            waiting.append((source, where))
            continue
        path, classes = (folder / "datasets" / f"{name}.zip").absolute(), int(entry.get("label_dim") or 0)
        shape = (REFERENCES, entry["resolution"], entry["resolution"], entry["channels"])
        # Held-out images differ from the others, as a ratio of distances requires.
        images = np.random.default_rng(len(entries)).integers(0, 256, shape, dtype=np.uint8)
        labels = np.linspace(0, classes - 1, REFERENCES).astype(int).tolist() if classes else None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_archive(new := path.with_suffix(".new"), map(encode_png, images), labels)
        # An archive with another time would run finished jobs again.
        if path.exists() and filecmp.cmp(new, path, shallow=False):
            new.unlink()
        else:
            new.replace(path)
        facts = ("kind", "resolution", "channels", "label_dim")
        entries[name] = {key: entry[key] for key in facts if key in entry} | {
            "path": str(path),
            "num_images": REFERENCES,
        }
    return entries


def _write_preset(base: Preset, folder: Path, datasets: Mapping[str, Any], trainings: Mapping[str, Any]) -> None:
    """Writes preset, sheet, protocols and layouts, all marked; ``trainings`` changes teachers and recipes."""
    marked = _write_protocols(base, folder, with_judges=not trainings)
    _write_layouts(base, folder)
    rows = []
    for row in read_runs(base.sheet):
        base_row = base.rows[row.run]
        cells = row.cells | {"label": f"rehearsal: {row.label}", "protocol": marked[base_row.protocol_path]}
        # The preset names second protocols by the name of the first one, which has changed.
        rows.append(cells | ({"second_protocol": marked[second]} if (second := base_row.cells.second_protocol) else {}))
    write_json(folder / "runs.json", {"runs": rows})
    changes = {
        "preset": f"rehearsal-{base.name}",
        "title": f"{MARK}. {base.settings.title}",
        "runs": os.fspath(folder / "runs.json"),
        "protocol": marked[base.settings.protocol],
        "claims": None,
        "device": "cpu",
        "gpus": 0,
        "threads": 1,
        "paper": False,
        "table_mode": "measured",
        "datasets": datasets,
        # By name, since a path would be that of the unmarked layout.
        **{kind: list(layouts) for kind, layouts in base.layouts.items()},
        **trainings,
        "samplers": {
            name: {**sampler, "num_steps": 2}
            for name, sampler in base.settings.samplers.items()
            if (sampler.get("num_steps") or 0) > MOST_STEPS
        },
    }
    write_text(folder / "preset.yaml", yaml_text(changes))


def _write_protocols(base: Preset, folder: Path, with_judges: bool) -> dict[str, str]:
    """Writes protocols with few images and one trial, marked; returns their paths by those of the preset."""
    paths = dict.fromkeys([base.settings.protocol, *(row.protocol_path for row in base.rows.values())])
    marked = {path: os.fspath(folder / "protocols" / Path(path).name) for path in paths}
    for path in paths:
        protocol, content = load_protocol(path), read_protocol(Path(path))
        count = DECODED if protocol.decodes else IMAGES
        content |= {"name": f"rehearsal of {protocol.name}", "title": f"{MARK}; {protocol.title}"}
        content |= {"num_samples": count, "trials": 1, "rehearsal": True}
        if not with_judges:
            content["metrics"] = without_judges(content["metrics"])
        for metric in content["metrics"]:
            if metric.get("splits", 1) > EVALUATED:
                metric["splits"] = 1
        for reference in content.get("references", {}).values():
            if reference.get("kind") == "images":
                reference["num_images"] = IMAGES
        write_text(marked[path], yaml_text(content))
    return marked


def _write_layouts(base: Preset, folder: Path) -> None:
    """Writes layouts of tables and figures, marked, without bold values and published rows."""
    for kind, layouts in base.layouts.items():
        for name in layouts:
            layout = read_extended(base.layout(kind, name))
            layout["caption"] = re.sub(r"\s*\bBold:[^.]*\.", "", str(layout.get("caption", "")))
            layout |= {key: f"{MARK}. {layout.get(key, '')}" for key in ("title", "caption")}
            if layout.get("kind") == "samples":
                layout |= {"rows": 1, "columns": 2}
            layout.pop("bold", None)  # no value is the best
            if kind == "tables" and "rows" in layout:
                # Rows of networks that are only published have no place in a table of measured values.
                layout["rows"] = [row for row in layout["rows"] if _shows(row, layout, base.runs)]
            write_text(folder / kind / f"{name}.yaml", yaml_text(layout))


def _shows(row: Mapping[str, Any], layout: Mapping[str, Any], runs: Iterable[str]) -> bool:
    """Whether a row of a table's layout names a row of the sheet in one of its columns, or none by an id."""
    values = [{"column": str(column.get("key", "")), **(layout.get("vars") or {})} for column in layout["columns"]]
    return row.get("run") is None or not {with_values(row["run"], names) for names in values}.isdisjoint(runs)


def _write_registry(registry: Mapping[str, Asset], folder: Path, small: Sequence[str]) -> None:
    """Writes the registry without sizes and hashes, but for code, whose hash is its permission.

    The architectures of ``small`` networks are files beside it.
    """
    lines = ["\t".join(ASSET_COLUMNS)]
    for asset in registry.values():
        path = folder / "cache" / asset.target
        code = asset.kind == "code" and path.exists()
        cells = {name: str(getattr(asset, name)) for name in ASSET_COLUMNS if name not in ("size", "mirrors")}
        network = asset.network
        if small and (asset.id in small or path.exists()) and asset.architecture is not None:
            network = str((folder / "networks" / f"{asset.network}.yaml").absolute())
            write_text(network, yaml_text(small_network(load_spec(str(asset.architecture), asset.id), asset.id)))
        cells |= {"kind": f"{asset.kind}:{network}" if network else asset.kind}
        cells |= {"mirrors": "", "size": "", "sha256": sha256_file(path) if code else "", "note": MARK}
        lines.append("\t".join(cells[name] for name in ASSET_COLUMNS))
    write_text(folder / "assets.tsv", "\n".join(lines) + "\n")
