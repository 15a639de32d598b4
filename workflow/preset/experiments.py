"""Checks of a preset's experiments against its claims, tables and figures."""

from __future__ import annotations

from eval.claims.model import load_claims
from sida.errors import UserError, suggestion
from workflow.preset.job_specs import Preset


def check_experiments(preset: Preset) -> None:
    """Checks that experiments name what the preset has, and that no claim of it goes without a prediction.

    Raises:
        UserError: The first fault, with its experiment and key.
    """
    path, known = preset.config["experiments"], preset.experiments
    if not preset.config["claims"]:
        raise UserError(
            f"{preset.source}: experiments are decided by claims, and the preset has none; add key 'claims'"
        )
    claims = {claim.id: claim for claim in load_claims(preset.config["claims"])}
    for experiment in known.values():
        where = f"{path}: {experiment.id}"
        for claim in experiment.claims:
            if claim not in claims:
                source = preset.config["claims"]
                raise UserError(f"{where}.predicted: no claim '{claim}' in {source}{suggestion(claim, claims)}")
        for kind in ("tables", "figures"):
            listed = preset.config[kind]
            for name in getattr(experiment, kind):
                if name not in listed:
                    raise UserError(
                        f"{where}.{kind}: '{name}' is not in {preset.source}: {kind}{suggestion(name, listed)}"
                    )
    scopes = {claims[name].scope: experiment.id for experiment in known.values() for name in experiment.claims}
    if len(scopes) > 1:
        listed = ", ".join(f"'{scope}' ({name})" for scope, name in scopes.items())
        raise UserError(f"{path}: claims of several scopes: {listed}; a preset decides those of one")
    predicted = {name for experiment in known.values() for name in experiment.claims}
    forgotten = [claim.id for claim in claims.values() if claim.scope in scopes and claim.id not in predicted]
    if forgotten:
        raise UserError(
            f"{path}: no experiment predicts {', '.join(forgotten)}; name each claim in one (key 'predicted')"
        )
