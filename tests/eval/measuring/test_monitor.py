"""The training monitor: the same distance as a measurement, from seeds of its own."""

from __future__ import annotations

import importlib
import statistics

import pytest
import torch

from eval.measuring.measure import measure
from eval.measuring.monitor import SEED0, make_monitor, monitor_facts
from eval.measuring.protocol import load_protocol
from sida.config.plugins import MONITOR
from sida.data import load_dataset
from sida.errors import UserError
from sida.sampling import NO_CLASS
from tests.eval.measuring.specs import DIGITS, content, data_spec, metric, protocol, resampled


def test_found_by_the_name_that_presets_use():
    module, _, function = MONITOR.partition(":")
    assert getattr(importlib.import_module(module), function) is make_monitor


def test_a_collapsed_generator_is_evaluated_too():
    """Training goes on where a student gives one image for all seeds; its distance is far from any other."""
    image, monitor = load_dataset(DIGITS).images([7]), make_monitor(DIGITS, num_samples=2500)
    result = monitor(lambda seeds: (image.expand(len(seeds), -1, -1, -1), torch.full((len(seeds),), NO_CLASS)))
    assert result["fd"] > 5 * monitor(resampled)["fd"]


def test_seeds_are_fresh_and_batches_do_not_matter():
    seen = []

    def generate(seeds):
        seen.extend(seeds)
        return resampled(seeds)

    result = make_monitor(DIGITS, num_samples=120, trials=2, batch_size=50)(generate)
    assert seen == list(range(SEED0, SEED0 + 240))
    assert min(seen) > 10 * 50_000  # beyond the seeds of every protocol's trials
    again = make_monitor(DIGITS, num_samples=120, trials=2, batch_size=120)(resampled)
    assert again["fd_trials"] == pytest.approx(result["fd_trials"], rel=1e-6)


def test_single_trial_has_no_spread_and_unconditional_images_no_accuracy():
    def unconditional(seeds):
        return resampled(seeds)[0], torch.full((len(seeds),), NO_CLASS)

    result = make_monitor(DIGITS, num_samples=100)(unconditional)
    assert result["fd_std"] == 0
    assert "accuracy" not in result
    assert make_monitor(DIGITS, num_samples=100)(lambda seeds: (resampled(seeds)[0], None))["fd"] == result["fd"]


def test_every_watched_metric_of_the_protocol_is_logged_as_it_is_measured(tmp_path):
    asked = content(num_samples=400, trials=2)
    expected = [record["metrics"] for record in measure(data_spec(protocol=asked), tmp_path, [0, 1])]
    result = make_monitor(DIGITS, protocol=asked, trials=2, seed0=0, batch_size=150, threads=1)(resampled)
    for key in ("fd", "is", "fd_pixel", "accuracy"):
        values = [trial[key] for trial in expected]
        assert result[f"{key}_trials"] == pytest.approx(values, rel=1e-6)
        assert result[key] == pytest.approx(statistics.fmean(values), rel=1e-6)
        assert result[f"{key}_std"] == pytest.approx(statistics.stdev(values), rel=1e-4)
    assert result["num_samples"] == 400
    assert result["accuracy"] > 0.99
    assert "recall" not in result  # needs stored features
    assert result["selection"] == "fd"


def test_the_protocol_says_which_metric_chooses():
    chosen = content(selection="fd_pixel")
    assert make_monitor(DIGITS, protocol=chosen, num_samples=100)(resampled)["selection"] == "fd_pixel"
    facts = [monitor_facts(protocol) for protocol in (content(), content(selection="fd"), chosen)]
    assert facts[0] == facts[1] != facts[2]
    assert load_protocol(content()).facts() == load_protocol(chosen).facts()  # no measured number changes
    with pytest.raises(UserError, match="selection: must be a metric of kind 'frechet'"):
        load_protocol(content(selection="is"))


def test_faults():
    with pytest.raises(UserError, match="num_samples must be at least 2"):
        make_monitor(DIGITS, num_samples=1)
    with pytest.raises(UserError, match=r"no extractor 'x' .known: digits"):
        make_monitor(DIGITS, protocol=protocol(metric("a", extractor="x")))
    with pytest.raises(UserError, match="no metric of kind 'frechet'"):
        make_monitor(DIGITS, protocol=protocol(metric("a", "accuracy", reference=None)))


@pytest.mark.parametrize("count", [2, 5])
def test_parts_of_an_evaluation_give_the_whole(count):
    """Five parts of three batches: two of them have nothing to do."""
    monitor = make_monitor(DIGITS, num_samples=300, trials=2, batch_size=100, threads=1)
    seen = []

    def generate(seeds):
        seen.append(seeds)
        return resampled(seeds)

    whole = monitor(resampled)
    joined = monitor.join([monitor.part(generate, number, count) for number in range(count)])
    assert joined.keys() == whole.keys()
    for key, value in whole.items():
        assert joined[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9)), key
    assert len(seen) == len(set(seen)) == 6
