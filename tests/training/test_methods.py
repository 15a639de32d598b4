"""GDD, GDD-I and a custom method by the same loop: steps as released, resumed bit by bit."""

import pytest
import torch

from sida.methods import METHODS, distill
from sida.methods.gdd import INNATE
from sida.networks.file import load_network
from tests.near import is_copy
from tests.training.toy import (
    COMMON,
    assert_recorded,
    iterate,
    of_method,
    own_betas_of_the_generator,
    resumes,
    student_trainer,
)

SLOW = pytest.mark.slow
GDD_OPTIONS, JUDGED = {"backbones": ["digits"], "r1_interval": 2}, {"real_or_fake", "r1", "fooling"}
OWN = "docs.examples.matching:METHOD"
#: Own options of a method, its losses, and the class of its networks.
RUNS = {
    "gdd": (GDD_OPTIONS, JUDGED, "GDDPrecond"),
    "gdd-i": (GDD_OPTIONS, JUDGED, "GDDPrecond"),
    OWN: ({}, {"matching", "denoising"}, "EDMPrecond"),
}


def spec_of(method, teacher, **more):
    start, options = of_method(method if method in METHODS else "sid", COMMON), RUNS[method][0]
    return {**start, "method": method, "teacher": teacher, "options": options, **more}


def test_gdd_starts_as_released(teacher):
    options = {"backbones": ["digits"], "r1_interval": 16}
    trainer = student_trainer(spec_of("gdd", teacher, ema_half_life_kimg=None, options=options, adversarial_kimg=200.0))
    judge, penalty, generator = trainer.steps
    assert (penalty.network, penalty.stream, penalty.every) == (judge.network, judge.stream, 16)
    # Golden: lr × 16/17 and β₂ = 0.99^(16/17) of the discriminator; the generator's are plain.
    assert judge.network.lr == pytest.approx(1e-3 * 16 / 17)
    assert judge.network.adam.betas == pytest.approx((0, 0.99 ** (16 / 17)))
    assert (generator.network.lr, generator.network.adam.betas) == (1e-3, (0.0, 0.99))
    assert judge.weights(64) == {"real_or_fake": 64, "r1": 16, "fooling": 64}
    assert generator.network.net.init_config["kwargs"]["dropout"] == 0
    assert (trainer.config.init_sigma, trainer.config.ema_half_life_kimg) == (80.0, 500)
    # Patience counts from the first image, since no term joins later.
    assert trainer.begun == 0
    start, _ = load_network(teacher)
    assert is_copy([*generator.network.net.parameters()], [*start.parameters()])


def test_a_nan_of_gdd_drops_all_images_of_its_micro_batch(teacher):
    trainer = student_trainer(spec_of("gdd", teacher, ema_half_life_kimg=None))
    labels, images = torch.eye(10)[:8], torch.zeros(8, 1, 8, 8)
    images[3] = float("nan")
    record = iterate(trainer, 0, [(images, labels), (images * 0 + 0.5, labels)])
    # The first micro-batch of the discriminator's step, of its penalty, and none of the generator's.
    assert (int(record.nan_samples), record.samples) == (16, 48)


def test_innate_training_changes_only_what_is_not_frozen(tmp_path, teacher, capsys):
    net, _ = load_network(distill(spec_of("gdd-i", teacher), tmp_path))
    pairs = zip(load_network(teacher)[0].named_parameters(), net.parameters(), strict=True)
    changed = {name: not is_copy(after, before) for (name, before), after in pairs}
    frozen = [changed[name] for name in changed if INNATE.match(name)]
    assert frozen
    assert not any(frozen)
    assert changed["model.enc.8x8_conv.weight"]
    assert changed["model.enc.8x8_block0.norm0.weight"]
    assert "% of the generator's parameters stay equal to the teacher's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("gdd", {}),
        pytest.param("gdd-i", {}, marks=SLOW),
        pytest.param(OWN, {}, marks=SLOW),
        pytest.param("gdd", {"augment": {"p": 0.1}}, marks=SLOW),
    ],
)
def test_run_resumes_bit_by_bit(tmp_path, teacher, monkeypatch, method, more):
    _, losses, cls = RUNS[method]
    resumes(spec_of(method, teacher, **more), losses, tmp_path, monkeypatch, cls)
    # The resampling of augmentation enlarges the rounding of other kernels.
    if not more:
        assert_recorded(method, tmp_path / "straight")


@pytest.mark.parametrize("method", ["gdd", pytest.param(OWN, marks=SLOW)])
def test_the_generator_may_have_betas_of_its_own(teacher, method):
    own_betas_of_the_generator(spec_of(method, teacher))
