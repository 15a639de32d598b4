"""A run as a folder for the Hugging Face Hub: weights, model card with measurements, one-step diffusers pipeline."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from eval.results.summary import Measurements, load_measurements
from eval.tables.text import markdown, terminal_text
from sida.errors import UserError
from sida.files.atomic import atomic_folder, write_json, write_text
from sida.networks.describe import describe_file
from sida.runtime.provenance import code_version

_CODE = Path(__file__).parent / "hub"
_PICTURE = 8


def write_hub_folder(run: str | Path, out: str | Path, licence: str = "other") -> list[str]:
    """Writes the folder; ``hf upload`` stays the user's own command.

    Args:
        run: Folder of a training (``results/demo/students/sida-a1.0``), or a network file.
        out: Folder to make.
        licence: Identifier of the licence, as the Hub has them.

    Returns:
        Names of the files.

    Raises:
        UserError: No network there, or a target that exists.
    """
    run, out = Path(run), Path(out)
    network = run / "network.safetensors" if run.is_dir() else run
    if os.path.lexists(out):
        raise UserError(f"{out}: exists already; name another folder, or remove it")
    facts = describe_file(network)
    if facts["format"] == "pickle":
        raise UserError(f"{network}: is a pickle; convert it first: sida convert {network} network.safetensors")
    name = run.name if run.is_dir() else str(facts.get("name") or network.stem)
    with atomic_folder(out) as part:
        _fill(part, network, name, facts, licence)
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def _fill(folder: Path, network: Path, name: str, facts: Mapping[str, Any], licence: str) -> None:
    from sida.sampling.generator import load
    from sida.sampling.grid import save_grid

    component = folder / "generator"
    component.mkdir()
    shutil.copyfile(network, component / "network.safetensors")
    write_json(component / "config.json", {"_class_name": "OneStepGenerator", **facts["network"]})
    shutil.copyfile(_CODE / "sida_generator.py", component / "sida_generator.py")
    shutil.copyfile(_CODE / "pipeline.py", folder / "pipeline.py")
    classes = {"_class_name": ["pipeline", "OneStepPipeline"], "generator": ["sida_generator", "OneStepGenerator"]}
    write_json(folder / "model_index.json", classes | {"_diffusers_version": _diffusers()})
    generator = load(network)
    if generator.net.img_channels in (1, 3):
        import torch

        images = torch.from_numpy(generator.sample(_PICTURE**2))
        save_grid(folder / "samples.png", images, _PICTURE, scale=max(1, 32 // images.shape[-1]))
    recipe = _recipe(network, name)
    if recipe is not None:
        write_text(folder / "recipe.json", json.dumps(recipe, indent=1, sort_keys=True) + "\n")
    pictured = (folder / "samples.png").exists()
    write_text(folder / "README.md", model_card(name, facts, _measured(network), licence, recipe, pictured))


def _diffusers() -> str:
    try:
        return version("diffusers")
    except PackageNotFoundError:
        return "0.27.0"


def _results(network: Path) -> Path:
    """Results folder of a preset that a network lies in: ``results/demo`` of ``results/demo/students/x/network…``."""
    return network.resolve().parents[2] if len(network.resolve().parents) > 2 else network.parent


def _measured(network: Path) -> Measurements | None:
    path = _results(network) / "measurements.csv"
    return load_measurements(path) if path.is_file() else None


def _recipe(network: Path, name: str) -> dict[str, Any] | None:
    """Settings of the training, from the spec that the workflow wrote."""
    from sida.config.mapping import load_spec

    path = _results(network) / "specs" / "students" / f"{name}.json"
    return dict(load_spec(str(path))) if path.is_file() else None


def model_card(
    name: str,
    facts: Mapping[str, Any],
    measured: Measurements | None,
    licence: str,
    recipe: Mapping[str, Any] | None,
    pictured: bool,
) -> str:
    """The card: metadata with ``model-index``, then the same for people.

    Args:
        name: Id of the run.
        facts: :func:`sida.networks.describe.describe_file` of the network.
        measured: Measurements of its preset; only those of this very file are taken, by its hash.
        licence: Identifier of the licence.
        recipe: Settings of the training.
        pictured: Whether ``samples.png`` is there.
    """
    data = facts.get("dataset") if isinstance(facts.get("dataset"), Mapping) else {"name": facts.get("dataset")}
    dataset = _plain((data or {}).get("name") or "unknown")
    lines = [row for row in measured.rows if row.network_sha256 == facts["sha256"]] if measured else []
    metrics, table = [], []
    for run, metric in dict.fromkeys((row.run, row.metric) for row in lines):
        estimate = measured.estimate(run, metric)  # type: ignore[union-attr]
        row = next(row for row in lines if (row.run, row.metric) == (run, metric))
        args = {"std": estimate.std, "trials": estimate.trials, "images": row.n, "nfe": row.nfe}
        args |= {"protocol": row.protocol, "protocol_sha256": row.protocol_sha256}
        metrics.append({"type": metric, "name": f"{metric} ({row.protocol})", "value": estimate.mean, "args": args})
        spread = f" ± {estimate.std:.4g}" if estimate.std is not None else ""
        cells = (metric, f"{estimate.mean:.5g}{spread}", estimate.trials, f"{row.n:,}")
        table.append(f"| {' | '.join(map(str, cells))} | {row.protocol} (`{row.protocol_sha256[:12]}`) |")
    task = {"type": "unconditional-image-generation", "name": "Image generation"}
    results = [{"task": task, "dataset": {"type": dataset, "name": dataset}, "metrics": metrics}] if metrics else []
    head: dict[str, Any] = {
        "license": licence,
        "library_name": "diffusers",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["diffusion-distillation", "one-step", *filter(None, [_plain(facts.get("method") or "")])],
    }
    if results:
        head["model-index"] = [{"name": name, "results": results}]
    parents = facts.get("parents") if isinstance(facts.get("parents"), Mapping) else {}
    origin = [f"| {_plain(role)} | `{_plain(digest)}` |" for role, digest in (parents or {}).items() if digest]
    text = ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(), "---", f"# {_plain(name)}", ""]
    text += [f"A one-step image generator: method {_plain(facts.get('method') or 'unknown')}, data set {dataset}."]
    text += [f"{facts['parameters']:,} parameters, architecture {facts['network']['class']}.", ""]
    text += ["![Samples of seeds 0 to 63](samples.png)", ""] if pictured else []
    text += [_USE, "## Measurements", ""]
    if table:
        text += ["Mean ± sample standard deviation over trials with fresh seeds, measured on this very file.", ""]
        text += ["| metric | value | trials | images | protocol |", "|---|---:|---:|---:|---|", *table, ""]
    else:
        text += ["This file was not measured.", ""]
    text += ["## Training", ""]
    text += ["The settings are in [recipe.json](recipe.json).", ""] if recipe else []
    text += [
        "| | |",
        "|---|---|",
        f"| images seen | {_plain(facts.get('nimg', 'unknown'))} |",
        f"| data set | {dataset} |",
    ]
    text += [f"| digest of the settings | `{_plain(facts.get('config_sha256', 'unknown'))}` |", *origin, ""]
    text += ["## Provenance", "", f"Network file: sha256 `{facts['sha256']}`, made by code {_made_by(facts)}."]
    text += [f"Folder written by sida-repro {code_version()}.", "", "## Licence", "", _licence(licence), ""]
    return "\n".join(text)


_USE = """## Use

Needs `sida-repro` and `diffusers`. The pipeline's code is in this folder; read it before you trust it.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
images = pipe(num_images=16, seed=0).images
```

Or without diffusers: `sida.load("FOLDER/generator/network.safetensors").sample(16, seed=0)` gives the same images.
"""


def _made_by(facts: Mapping[str, Any]) -> str:
    return _plain(facts.get("code_version") or "unknown")


def _licence(licence: str) -> str:
    if licence == "other":
        return "To be filled in by the person who uploads this folder: the terms of the teacher and of the data apply."
    return (
        f"{licence}, as stated by the person who uploads this folder; the terms of the teacher and of the data apply."
    )


def _plain(value: Any) -> str:
    """Text of a file's header: one line without HTML and links."""
    return markdown(terminal_text(str(value)))[:200].replace("|", r"\|")
