"""``sida manifest``: records the files of a results folder and their origin."""

from __future__ import annotations

import argparse

from sida.cli.arguments import existing

HELP = "Record every artefact of a results folder with its sha256, versions and machine."
EXAMPLES = """examples:
  sida manifest results/demo --out results/demo/manifest.json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``sida manifest``."""
    parser.add_argument("folder", type=existing(), help="results folder of a preset")
    parser.add_argument("--preset", help="settings of the preset as JSON or a file; their digest is recorded")
    parser.add_argument("--command", help="command that made the results; recorded")
    parser.add_argument("--out", required=True, help="manifest to write (JSON)")


def run(args: argparse.Namespace) -> None:
    """Writes the manifest."""
    from pathlib import Path

    from sida.config.settings import load_spec
    from sida.errors import UserError
    from sida.files.atomic import sha256_file, sha256_json, write_hashed_json
    from sida.provenance import environment

    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(folder, "no such results folder", "run the preset first")
    out = Path(args.out).resolve()
    skipped = {"state", "logs"}
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.resolve() != out
        and not path.name.startswith(".")
        and not skipped & set(path.relative_to(folder).parts[:-1])
    ]
    preset = load_spec(args.preset, "--preset") if args.preset else None
    facts = {str(p.relative_to(folder)): {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in files}
    manifest = {"environment": environment(None), "command": args.command, "preset": preset, "files": facts}
    manifest["preset_sha256"] = None if preset is None else sha256_json(preset)
    write_hashed_json(out, manifest)
