"""The choice by noisy distances: simulated sweeps whose true distances are known, ties, and what a choice is worth."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch

from sida.eval.features.registry import Features
from sida.eval.measuring.protocol import load_protocol
from sida.eval.measuring.references import Reference
from sida.eval.measuring.trial import TrialSums, compute_metrics
from sida.eval.metrics.statistics import FeatureStatistics
from sida.plugins.sweep.choice import choose
from sida.plugins.sweep.sweep import SEARCHED, search_protocol

WIDTH, IMAGES, PARTS, CANDIDATES = 16, 375, 10, 9
#: Images of a trial of the full score; the search has 15 % of them.
FULL = 2500
#: Share of the variance of features that equal seeds give all candidates.
SHARED = 0.8


def distance(rows):
    """Fréchet distance of features from those of a standard normal distribution."""
    mean, cov = rows.mean(0), np.cov(rows.T, bias=True)
    roots = np.sqrt(np.linalg.eigvalsh(cov).clip(0))
    return float(mean @ mean + cov.trace() + WIDTH - 2 * roots.sum())


def simulated(random, step, count):
    """Features of a sweep of guidance: the fourth candidate is the best, and diversity falls along the sweep.

    The true distances rise by ``step`` from one candidate to the next on both sides of the best one.
    """
    scales = 1 - 0.02 * np.arange(CANDIDATES)
    spread = WIDTH * (scales - 1) ** 2
    true = spread.max() + 0.04 + step * np.abs(np.arange(CANDIDATES) - 4)
    shared = random.standard_normal((count, WIDTH))
    for scale, shift in zip(scales, np.sqrt((true - spread) / WIDTH)):
        own = random.standard_normal((count, WIDTH))
        yield shift + scale * (np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * own)


def searched(random, step):
    """Search values, and values without each part, as the metric computes them."""
    values, without = [], []
    for rows in simulated(random, step, IMAGES):
        parts = np.array_split(rows, PARTS)
        left_out = [distance(np.concatenate(parts[:k] + parts[k + 1 :])) for k in range(PARTS)]
        bias = (PARTS - 1) * (np.mean(left_out) - distance(rows))
        values.append(distance(rows) - (1 - IMAGES / FULL) * bias)
        without.append(left_out)
    return values, without


def sweeps(step, count):
    """Choice, search values, and full values on other seeds, of simulated sweeps."""
    random = np.random.default_rng(5)
    for _ in range(count):
        values, without = searched(random, step)
        yield choose(values, without), values, [distance(rows) for rows in simulated(random, step, FULL)]


@pytest.mark.slow
def test_the_search_picks_the_winner_of_full_scores_in_19_of_20_sweeps():
    """The runner-up is 0.15 worse, 2 to 4 standard errors of the search's differences."""
    results = list(sweeps(0.15, 40))
    same = [choice.best == int(np.argmin(full)) for choice, _, full in results]
    assert np.mean(same) >= 0.95
    error = np.median([choice.errors[choice.runner_up] for choice, _, _ in results])
    assert 2 < 0.15 / error < 4
    # A best one that is told apart is the best.
    assert all(right for right, (choice, _, _) in zip(same, results) if not choice.ties)


def test_equal_candidates_are_ties_and_the_expected_optimism_is_the_real_one():
    results = list(sweeps(0.0, 40))
    assert sum(not choice.ties for choice, _, _ in results) <= 4
    assert all(choice.other > 0.2 for choice, _, _ in results)
    real = [full[choice.best] - values[choice.best] for choice, values, full in results]
    expected = np.mean([choice.optimism for choice, _, _ in results])
    assert expected > 0.02
    assert abs(np.mean(real) - expected) < 3 * np.std(real) / np.sqrt(len(real))


def scattered(random, true):
    """Values, and values without each part, of candidates whose means have the standard error 1."""
    parts = np.asarray(true)[:, None] + np.sqrt(PARTS) * random.standard_normal((len(true), PARTS))
    return parts.mean(1), (parts.sum(1, keepdims=True) - parts) / (PARTS - 1)


@pytest.mark.parametrize(("count", "spread"), [(2, 0.0), (9, 0.0), (9, 0.5), (5, 2.0)])
def test_the_luck_and_the_doubt_of_a_choice_are_near_the_real_ones(count, spread):
    """Simulated; equal candidates are each as good as the best."""
    random, real, said = np.random.default_rng(7), [], []
    for _ in range(250):
        true = spread * random.standard_normal(count)
        values, without = scattered(random, true)
        choice = choose(values, without)
        real.append((true[choice.best] - values[choice.best], true[choice.best] > true.min()))
        said.append((choice.optimism, choice.other))
    (luck, doubt), (optimism, other) = np.mean(real, 0), np.mean(said, 0)
    assert 0.75 * luck < optimism < 1.4 * luck
    assert abs(other - (doubt if spread else 1 - 1 / count)) < 0.14


def test_what_candidates_share_cancels():
    common = [0.5, -0.5, 0.3, -0.3]
    choice = choose([3.0, 2.0], [[3.0 + x for x in common], [2.0 + x for x in common]])
    assert (choice.best, choice.runner_up, choice.ties, choice.other, choice.optimism) == (1, 0, [], 0, 0)
    assert choice.errors == pytest.approx((0, 0))


def test_the_error_of_a_difference_is_that_of_a_mean():
    """The jackknife of a mean has the usual standard error."""
    rows = np.random.default_rng(0).standard_normal((2, 6))
    choice = choose(rows.mean(1), [[np.delete(row, k).mean() for k in range(6)] for row in rows])
    difference = rows[0] - rows[1]
    assert max(choice.errors) == pytest.approx(difference.std(ddof=1) / np.sqrt(6))
    assert max(choice.gaps) == pytest.approx(abs(difference.mean()))


def test_few_parts_have_the_wide_tails_of_students_t():
    """Two candidates and three parts: two degrees of freedom."""
    effects = np.array([-1.0, 0.0, 1.0])
    choice = choose([0.0, 2.0], [effects, 2.0 - effects])
    gap, error = choice.gaps[1], choice.errors[1]
    assert choice.better[1] == pytest.approx(scipy.stats.t.cdf(-gap / error, 2))
    # Two values scatter by half of their squared distance, and their noise by half of its squared error.
    shrunk = gap * math.sqrt(max(0.0, 1 - error**2 / gap**2))
    assert choice.other == pytest.approx(scipy.stats.t.cdf(-shrunk / error, 2), abs=0.012)


def test_equal_values_without_noise_decide_nothing():
    assert choose([1.0, 1.0], [[1.0] * 4] * 2).ties == [1]


def test_the_metric_extrapolates_to_the_images_of_a_trial():
    """By the distances of the suite, on features of pixels."""
    full = dataclasses.replace(load_protocol("digits").part(["fd_pixel"]), num_samples=FULL)
    protocol = search_protocol(full, full.metric("fd_pixel"), 1)
    assert (protocol.num_samples, protocol.trials) == (IMAGES, 1)
    random = torch.Generator().manual_seed(0)
    real, rows = (torch.randn(count, WIDTH, generator=random) for count in (5000, IMAGES))
    reference = Reference("normal", "", {"pixels": FeatureStatistics().update(real).moments})
    sums = TrialSums(protocol)
    sums.update({"pixels": Features(rows, None)}, None, 0)
    values, details = compute_metrics(sums, {"data": reference})
    without = details[SEARCHED]["without"]
    assert len(without) == PARTS
    bias = (PARTS - 1) * (np.mean(without) - values["fd_pixel"])
    assert bias > 0
    assert values[SEARCHED] == pytest.approx(values["fd_pixel"] - 0.85 * bias)
