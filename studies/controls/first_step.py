"""Gradients of the generator in Uni-Instruct's first step with all terms, beside twice SiDA's.

    snakemake --configfile studies/controls/preset.yaml --cores 1 -- results/controls/teachers/t30/network.safetensors
    python studies/controls/first_step.py results/controls/teachers/t30/network.safetensors [ROW]

Trains a row of SiDA (t30-uni-sida) from this teacher until the adversarial term sets in, and prints for five batches
the range of the released density ratio, and the norm of the difference of the gradients over the norm of SiDA's (all
terms in full on both sides).
"""

from __future__ import annotations

import sys

import torch

from sida.config.resources import ROOT
from sida.config.settings import from_mapping
from sida.data import load_dataset
from sida.losses import SiDALoss
from sida.machine import prepare_process
from sida.methods.distillation import make_trainer
from sida.methods.matching import UniInstructLoss
from sida.methods.resolve import DistillConfig, resolve_recipe
from sida.networks.checkpoint import read_metadata
from sida.sampling import one_step
from workflow.preset import Preset

LOSSES = {
    "SiDA": SiDALoss(alpha=1.0),
    "forward KL": UniInstructLoss(),
    "Jeffreys": UniInstructLoss(divergence="jeffreys"),
    "forward KL, ratio of logits": UniInstructLoss(ratio="logits"),
}
BATCHES = 5


def main(teacher: str, run: str = "t30-uni-sida") -> None:
    """Prints one line for each batch."""
    prepare_process(1)
    preset = Preset.load(ROOT / "studies/controls/preset.yaml")
    given = from_mapping(DistillConfig, {**preset.specs.student(run), "teacher": teacher, "evaluation": None}, run)
    config = resolve_recipe(given, read_metadata(teacher)["network"])
    init_sigma = preset.settings.samplers[preset.runs[run].sampler]["init_sigma"]
    data, random = load_dataset(config.dataset), torch.Generator().manual_seed(0)
    shape = (config.batch_size, data.num_channels, data.resolution, data.resolution)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(data), (config.batch_size,), generator=random)
        return data.images(chosen).float() / 127.5 - 1, data.labels(chosen)

    trainer = make_trainer(config, data, torch.device("cpu"))
    trainer.batches = lambda *_: [batch()]
    nimg = 0
    while nimg <= 1000 * config.adversarial_kimg:
        trainer.iteration(nimg)
        nimg += config.batch_size
    for step in trainer.steps:
        step.network.net.eval()
    generator, weights = trainer.generator.net, {key: getattr(config, key) for key in ("lambda_sid", "lambda_adv")}
    learnt = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    for number in range(BATCHES):
        labels, latents = batch()[1], torch.randn(shape, generator=random)
        draws = {"t": torch.rand((shape[0], 1, 1, 1), generator=random), "noise": torch.randn(shape, generator=random)}
        found, ratio = {}, torch.ones(1)
        for name, loss in LOSSES.items():
            images = one_step(generator, latents, labels, init_sigma)
            terms = loss.generator_loss(trainer.true_score, trainer.fake_score.net, images, labels, draws)
            factors = loss.weights({**weights, "lambda_d": 0.0, "lambda_fake_score": 0.0}, images[0].numel())
            keys = ("sid" if name == "SiDA" else "weighted_sid", "adversarial")
            total = sum(getattr(terms, key).sum() * factors[key] / shape[0] for key in keys)
            parts = torch.autograd.grad(total, learnt, allow_unused=True)
            found[name] = torch.cat([part.flatten() for part in parts if part is not None])
            if name == "forward KL":
                ratio = loss.released_ratio(terms.adversarial * images[0].numel())
        sida = found.pop("SiDA")
        apart = ", ".join(f"{name} {(one - sida).norm() / sida.norm():.4f}" for name, one in found.items())
        print(f"batch {number}: ratio {ratio.min():.5f} to {ratio.max():.5f}; {apart}")


if __name__ == "__main__":
    main(*sys.argv[1:])
