"""The example of one file beside the suite's own training."""

import copy

import pytest
import torch

from examples.sida_in_one_file import SiDA, Training
from sida.methods import SiDALoss
from sida.training.iteration import Distiller
from sida.training.optimizer import ema_half_life
from sida.training.schedule import Schedule
from tests.networks.made import recorded_network
from tests.training.toy import iterate, recipe, vector

LR = 1e-4


def drawn(seed, last):
    source = torch.Generator().manual_seed(seed)
    noise = lambda: torch.randn(4, 3, 8, 8, generator=source)
    level = torch.rand if last == "t" else torch.randn
    return {"z": noise(), "noise": noise(), last: level(4, 1, 1, 1, generator=source)}


def test_six_iterations_are_those_of_the_suite(golden):
    arrays, info = golden("losses_edm/networks")
    teacher = recorded_network(arrays, "EDMPrecond", info["constructor_kwargs"], "phi/")
    options = {"lr": LR, "lambda_adv": 10.0, "lambda_d": 5.0, "grad_clip_value": 1.0}
    schedule = Schedule(warmup_kimg=0.004, adversarial_kimg=0.012)
    settings = recipe(ema_half_life_kimg=0.1, ema_rampup_ratio=0.5, **options)
    nets = [copy.deepcopy(teacher) for _ in range(3)]
    ours = Distiller(*nets, SiDALoss(lambda_adv=10.0, lambda_d=5.0), schedule, settings)
    plain = Training(SiDA(lambda_adv=10.0, lambda_d=5.0, lr=LR), teacher)
    before = vector(teacher)
    for step in range(6):
        source, nimg = torch.Generator().manual_seed(step), 4 * step
        real = torch.randn(4, 3, 8, 8, generator=source) * 0.5
        labels, others = (torch.eye(3)[torch.randint(3, (4,), generator=source)] for _ in range(2))
        psi_draws, theta_draws = drawn(100 + step, "sigma_normal"), drawn(200 + step, "t")
        iterate(ours, nimg, [(real, labels)], [(real, others)], {"psi": [psi_draws], "generator": [theta_draws]})
        share = 0.5 if nimg > 12 else 0.0
        half_life = ema_half_life(nimg, 100, 0.5)
        plain.iteration((real, labels), others, psi_draws, theta_draws, nimg > 4, share, half_life)
    for one, other in ((ours.fake_score.net, plain.psi), (ours.generator.net, plain.theta), (ours.ema.net, plain.ema)):
        moved = (vector(one) - before).abs()
        difference = (vector(one) - vector(other)).abs()
        # Adam with β₁ = 0 moves the few weights without a gradient at random.
        assert (difference > 0.05 * LR).float().mean() < 0.02
        assert moved.median() > 0.5 * LR
        assert difference.median() < 1e-3 * LR


def test_nothing_but_torch_is_imported_at_the_top():
    import ast

    from sida.config.lookup import ROOT

    tree = ast.parse((ROOT / "examples/sida_in_one_file.py").read_text())
    names = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {ast.unparse(node).split()[1].partition(".")[0] for node in names} == {"copy", "dataclasses", "torch"}


@pytest.mark.slow
def test_the_example_distils_digits(capsys):
    from examples.sida_in_one_file import main

    main(total=640)
    assert "FD" in capsys.readouterr().out
