"""Counts of presets and claims, and printed numbers, for the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sida.errors import UserError


def jobs(root: Path, config: str, *options: str) -> str:
    """Jobs of a preset by a dry run as if nothing were there yet; further words go to Snakemake (targets last)."""
    return rules(root, config, "total", *options)


def rules(root: Path, config: str, rule: str, *options: str) -> str:
    """Jobs of one rule, counted like :func:`jobs`."""
    stated = [word for word in options if word.startswith("-")]
    targets = [word for word in options if not word.startswith("-")]
    call = [sys.executable, "-m", "snakemake", "-n", "--forceall", "--nolock", "--cores", "1", *stated, *targets]
    done = subprocess.run([*call, "--configfile", config], cwd=root, capture_output=True, text=True, check=False)
    found = re.search(rf"^{re.escape(rule)} +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    if found is None:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"the dry run of {config} counts no '{rule}' ({last[-1] if last else 'no output'})")
    return f"{int(found[1]):,}"


def rows(root: Path, config: str) -> str:
    """Rows of a preset's sample sheet."""
    from sida.preset import Preset

    return f"{len(Preset.load(root / config).runs):,}"


def claims(root: Path, path: str, scope: str, part: str = "all") -> str:
    """Claims of a scope; with ``ruled`` those that have a rule, with ``reasoned`` those that only have a reason."""
    from eval.claims import load_claims

    chosen = [claim for claim in load_claims(root / path) if claim.scope == scope]
    if part not in ("all", "ruled", "reasoned"):
        raise UserError(f"'{part}' must be all, ruled or reasoned")
    return str(sum(part == "all" or bool(claim.parts) == (part == "ruled") for claim in chosen))


def published(root: Path, key: str) -> str:
    """A published number as it was printed."""
    from eval.published import load_published, published_number

    return published_number(load_published(), key, "results/published").text


COUNTS: dict[str, Callable[..., str]] = {
    "jobs": jobs, "rules": rules, "rows": rows, "claims": claims, "published": published,
}  # fmt: skip
