"""SiD's α where everything is known, on Gaussians and a two-mode mixture in two dimensions: facts of the analysis.

Derivation, and consequences for the paper's Figures 1 and 2: studies/alpha/model.md.
"""

from __future__ import annotations

from eval.results.analyses import Analysis, Found, Inputs

from .settings import AnalyticSettings

_ALPHAS = ("-0.25", "0", "0.5", "0.75", "1", "1.2", "1.5")
_BY_ALPHA = {
    "collapse_below": "width at the start, over the data's, below which the generator collapses",
    "runaway_above": "width at the start, over the data's, above which the generator grows without end",
    "needed_ratio": "least rate of ψ over the generator's own for which the limited generator is stable",
    "width": "width at rest of the limited generator, over that of the least Fisher divergence",
    "frechet": "Fréchet distance at rest of the limited generator",
    "steps_exact": "steps until the generator is within half a nat of the mixture, with an exact ψ",
    "steps_lagging": "steps until the generator is within half a nat of the mixture, with a lagging ψ",
}
#: Descriptions of the numbers by name; numbers by α have names for the default values of α.
NUMBERS: dict[str, str] = {
    "identity_data": "residual of Tweedie's identity of the data, relative",
    "identity_generator": "residual of Tweedie's identity of the generator, relative",
    "identity_projection": "residual of L_α = (1 − α) J by the suite's loss, over J",
    "imperfect_value": "residual of the formula of the loss with an imperfect ψ, over J",
    "imperfect_slope": "residual of the formula of its slope, relative",
    "divisor_2": "error of the third identity with the loss's own divisor and 2 pixels, relative",
    "divisor_64": "error of the third identity with the loss's own divisor and 64 pixels, relative",
    "divisor_3072": "error of the third identity with the loss's own divisor and 3072 pixels, relative",
    "closed_form": "residual of the closed forms on Gaussians against the suite's losses, relative",
    "starts_agreement": "share of starts whose end is as predicted",
    "ratios_agreement": "share of pairs of α and ψ's rate whose stability is as predicted",
    "false_points_inside": "values of α from 0 to 1 with a width from which the generator never reaches the data",
    "false_points_outside": "values of α below 0 or above 1 with such a width, over all such values",
    "no_rest_above": "α above which the limited generator never comes to rest",
    "frechet_alpha": "α whose limited generator rests at the least Fréchet distance",
    "frechet_alpha_least": "least over shapes of the data of the α that rests at the least Fréchet distance",
    "frechet_alpha_most": "largest over shapes of the data of the α that rests at the least Fréchet distance",
    "cosine_exact": "least cosine of slopes for any α with that of α = 1, exact ψ, mixture",
    "cosine_lagging": "least cosine of slopes for any α with that of α = 1, lagging ψ, mixture",
    "cross_over_alpha_exact": "size of the slope at α = 0 over that of the α term at α = 1, median over steps, exact ψ",
    "cross_over_alpha_lagging": "size of the slope at α = 0 over that of the α term, median over steps, lagging ψ",
    "unbiased_alpha_narrow": "α at which a lag of ψ does not bias the mean's slope, generator half as wide as the data",
    "unbiased_alpha_right": "α at which a lag of ψ does not bias the mean's slope, generator as wide as the data",
    "unbiased_alpha_wide": "α at which a lag of ψ does not bias the mean's slope, generator twice as wide as the data",
    "official_start": "width of a generator at the start of a distillation, over the data's",
    "mixture_diverged": "trainings on the mixture that diverged, of both kinds of ψ and every α",
    "slowest_over_fastest": "steps until half a nat, largest over smallest over α, exact ψ",
    "lag": "lag of ψ's mean in the errors of slopes, over the generator's distance",
    **{f"{name}_a{alpha}": f"{about}, α = {alpha}" for name, about in _BY_ALPHA.items() for alpha in _ALPHAS},
}


def compute(inputs: Inputs, options: AnalyticSettings) -> Found:
    """Computes all numbers, in half a minute on one core."""
    import torch

    from .study import study

    # One thread is the fastest for small tensors.
    torch.set_num_threads(1)
    with torch.enable_grad():
        found = study(options)
    return Found(found.pop("numbers"), more=found)


MODEL = Analysis(compute, NUMBERS, AnalyticSettings)
