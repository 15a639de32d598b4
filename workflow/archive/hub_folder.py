"""A run as a folder for the Hugging Face Hub: weights, model card with measurements, one-step diffusers pipeline."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eval.results.summary import Measurements, load_measurements, measurements_file
from eval.tables.text import markdown, terminal_text
from sida.config.mapping import load_spec
from sida.errors import UserError
from sida.files.atomic import atomic_folder, write_json, write_text
from sida.networks.checkpoint import describe_file
from sida.runtime.provenance import code_version

_CODE = Path(__file__).parent / "hub"
_PICTURE = 8
_TASK = "unconditional-image-generation"


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
    import torch

    from sida.sampling.drawer import save_grid
    from sida.sampling.generator import load

    component = folder / "generator"
    component.mkdir()
    shutil.copyfile(network, component / "network.safetensors")
    write_json(component / "config.json", {"_class_name": "OneStepGenerator", **facts["network"]})
    shutil.copyfile(_CODE / "sida_generator.py", component / "sida_generator.py")
    shutil.copyfile(_CODE / "pipeline.py", folder / "pipeline.py")
    classes = {"_class_name": ["pipeline", "OneStepPipeline"], "generator": ["sida_generator", "OneStepGenerator"]}
    write_json(folder / "model_index.json", classes | {"_diffusers_version": "0.27.0"})
    generator = load(network)
    pictured = generator.net.img_channels in (1, 3)
    if pictured:
        images = torch.from_numpy(generator.sample(_PICTURE**2))
        save_grid(folder / "samples.png", images, _PICTURE, scale=max(1, 32 // images.shape[-1]))
    # Results of its preset: results/demo of results/demo/students/x/network.safetensors.
    results = (network.resolve().parents[2:3] or [network.parent])[0]
    spec, table = results / "specs" / "students" / f"{name}.json", measurements_file(results)
    if spec.is_file():
        text = json.dumps(load_spec(str(spec)), indent=1, sort_keys=True)
        write_text(folder / "recipe.json", text + "\n")
    measured = load_measurements(table) if table.is_file() else Measurements([])
    write_text(folder / "README.md", model_card(name, facts, measured, licence, spec.is_file(), pictured))


def model_card(
    name: str, facts: Mapping[str, Any], measured: Measurements, licence: str, recipe: bool, pictured: bool
) -> str:
    """The card: metadata with ``model-index``, then the same for people.

    Args:
        name: Id of the run.
        facts: :func:`sida.networks.checkpoint.describe_file` of the network.
        measured: Measurements of its preset; only those of this very file are taken, by its hash.
        licence: Identifier of the licence.
        recipe: Whether ``recipe.json`` is there.
        pictured: Whether ``samples.png`` is there.
    """
    data, parents = facts.get("dataset"), facts.get("parents")
    dataset = _plain(data.get("name") if isinstance(data, Mapping) else data)
    metrics = _metrics(facts["sha256"], measured)
    head: dict[str, Any] = {"license": licence, "library_name": "diffusers", "pipeline_tag": _TASK}
    method = _plain(facts.get("method"))
    head["tags"] = ["diffusion-distillation", "one-step", *([method] if facts.get("method") else [])]
    if metrics:
        result = {"task": {"type": _TASK, "name": "Image generation"}, "dataset": {"type": dataset, "name": dataset}}
        head["model-index"] = [{"name": name, "results": [{**result, "metrics": metrics}]}]
    return (
        (_CODE / "card.md")
        .read_text(encoding="utf-8")
        .format(
            head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(),
            name=_plain(name),
            method=method,
            dataset=dataset,
            parameters=facts["parameters"],
            architecture=facts["network"]["class"],
            picture="\n![Samples of seeds 0 to 63](samples.png)\n" if pictured else "",
            measurements="".join([_MEASURED, *map(_line, metrics)]) if metrics else "This file was not measured.\n",
            recipe="The settings are in [recipe.json](recipe.json).\n\n" if recipe else "",
            nimg=_plain(facts.get("nimg")),
            config=_plain(facts.get("config_sha256")),
            parents="".join(
                f"| {_plain(role)} | `{_plain(digest)}` |\n"
                for role, digest in (parents.items() if isinstance(parents, Mapping) else ())
                if digest
            ),
            sha256=facts["sha256"],
            made_by=_plain(facts.get("code_version")),
            written_by=code_version(),
            licence="to be filled in" if licence == "other" else f"{licence}, as stated",
        )
    )


_MEASURED = """Mean ± sample standard deviation over trials, each with seeds of its own, measured on this very file.

| metric | value | trials | images | protocol |
|---|---:|---:|---:|---|
"""


def _metrics(sha256: str, measured: Measurements) -> list[dict[str, Any]]:
    """Entries of ``model-index`` for the measurements of one file."""
    rows = {(row.run, row.metric): row for row in measured.rows if row.network_sha256 == sha256}
    metrics = []
    for (run, metric), row in rows.items():
        estimate = measured.estimate(run, metric)
        args: dict[str, Any] = {"std": estimate.std, "trials": estimate.trials, "images": row.n, "nfe": row.nfe}
        args |= {"protocol": row.protocol, "identity_sha256": row.identity.sha256}
        metrics.append({"type": metric, "name": f"{metric} ({row.protocol})", "value": estimate.mean, "args": args})
    return metrics


def _line(metric: Mapping[str, Any]) -> str:
    args = metric["args"]
    value = f"{metric['value']:.5g}" + (f" ± {args['std']:.4g}" if args["std"] is not None else "")
    protocol = f"{args['protocol']} (`{args['identity_sha256'][:12]}`)"
    return f"| {metric['type']} | {value} | {args['trials']} | {args['images']:,} | {protocol} |\n"


def _plain(value: Any) -> str:
    """Text of a file's header: one line without HTML and links."""
    return markdown(terminal_text(str("unknown" if value is None else value)))[:200].replace("|", r"\|")
