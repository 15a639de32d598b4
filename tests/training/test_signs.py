"""Numbers of a training's log by hand, and the signs in them, at the borders that the documentation states."""

import math
import time

import pytest
import torch

from sida.training import logs
from sida.training.logs import IterationRecord, TickMeter
from sida.training.processes import Ranks
from sida.training.run_folder import RunFolder

HEALTHY = {"nimg": 1000, "samples": 200, "nan_count": 0, "steps": 40, "bad_steps": 0}


def ticks(name, *counts):
    """Records that differ in one count."""
    return [{**HEALTHY, name: count} for count in counts]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"nan_count": 20}, None),  # 10 % are permitted
        ({"nan_count": 21}, "10 % of the samples up to image 1,000 were NaN (max_nan_share: 0.1)"),
        ({"bad_steps": 39}, None),
        ({"bad_steps": 40}, "every step up to image 1,000 had NaN or infinite gradients"),
        ({"nan_count": 0, "samples": 0}, None),
        ({"bad_steps": 0, "steps": 0}, None),
    ],
)
def test_a_run_is_hopeless_with_too_many_nan_or_without_a_valid_step(counts, words):
    assert logs.hopeless({**HEALTHY, **counts}, 0.1) == words


@pytest.mark.parametrize(
    ("name", "counts", "expected"),
    [
        # Of 200 samples 2 are 1 %, of 40 steps 4 are 10 %: neither is above.
        ("nan_count", [2], None),
        ("nan_count", [3], "2 % of the samples were NaN"),
        ("nan_count", [2, 3], "2 % of the samples were NaN"),
        ("nan_count", [3, 4], None),  # told before
        ("nan_count", [3, 0, 3], "2 % of the samples were NaN"),
        ("bad_steps", [4], None),
        ("bad_steps", [5], "12 % of the steps had NaN or infinite gradients"),
        ("bad_steps", [5, 6], None),
    ],
)
def test_a_tick_is_unhealthy_above_one_in_a_hundred_samples_or_one_in_ten_steps(name, counts, expected):
    assert logs.unhealthy(ticks(name, *counts)) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2.0], None),
        ([2.0, 6.0], None),  # three times the best is not above
        ([2.0, 5.0, 6.01], "fd = 6.01 is 3.0 times its best (2 at image 0)"),
        ([5.0, 2.0, 8.0], "fd = 8 is 4.0 times its best (2 at image 10)"),
        ([2.0, 7.0, 8.0], None),  # told before
        ([2.0, 7.0, 3.0, 8.0], "fd = 8 is 4.0 times its best (2 at image 0)"),
        ([2.0, 7.0, 1.0], None),
        ([0.0, 7.0], None),  # no multiple of nothing
        ([2.0, math.inf], "fd = inf is inf times its best (2 at image 0)"),
    ],
)
def test_an_evaluation_far_above_the_best_is_told_once(values, words):
    points = [(10 * number, value) for number, value in enumerate(values)]
    assert logs.rising(points, "fd") == ([words] if words else [])


@pytest.mark.parametrize(
    ("values", "count"),
    [([], 0), ([5.0], 0), ([5.0, 5.0], 1), ([5.0, 4.5, 4.6], 2), ([5.0, 4.49, 4.6], 1), ([5.0, 4.9, 4.8, 4.4], 0)],
)
def test_evaluations_are_counted_from_the_last_that_improved_by_a_tenth(values, count):
    assert logs.since_best(values, 0.1) == count


def test_the_value_of_an_evaluation_is_the_one_that_it_names():
    records = [
        {"nimg": 0, "fd": 9.0},
        {"nimg": 16, "selection": "kid", "kid": 0.5, "fd": 8.0},
        {"nimg": 32, "fd": None},
    ]
    assert [logs.selection(record) for record in records] == [("fd", 9.0), ("kid", 0.5), ("fd", None)]
    assert logs.selected(records) == [(0, 9.0), (16, 0.5), (32, math.inf)]
    lost = logs.without_numbers({**records[1], "seconds": 3.0, "num_samples": 50})
    assert lost.keys() == {"selection", "kid", "fd", "num_samples"}
    assert (lost["selection"], lost["num_samples"], *map(math.isnan, (lost["kid"], lost["fd"]))) == (
        "kid",
        50,
        True,
        True,
    )
    cleaned = logs.without_nan({"fd": math.nan, "of": [1.0, math.inf], "name": "x", "n": 3})
    assert cleaned == {"fd": None, "of": [1.0, None], "name": "x", "n": 3}


def iteration(sid, **more):
    """A record of an iteration with a loss, as tensors or numbers."""
    return IterationRecord({"sid": torch.tensor(sid)}, **more)


@pytest.fixture
def clock(monkeypatch):
    """Seconds of the machine's clock, which a test moves."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_tick_has_the_means_and_sums_of_its_iterations_and_begins_anew(clock):
    meter = TickMeter()
    nan, three, one = (torch.tensor(value) for value in (math.nan, 3.0, 1.0))
    meter.add(
        iteration(2.0, grad_norms={"generator": three}, samples=8, nan_samples=2, bad_gradients=torch.tensor(5)), 8
    )
    meter.add(iteration(4.0, grad_norms={"generator": nan}, samples=7, nan_samples=torch.tensor(1)), 8)
    meter.add(
        IterationRecord({"sid": nan, "denoising": nan}, term_norms={"sid": three, "adversarial": one}, samples=5), 4
    )
    clock[0] += 4
    expected = {
        "losses": {"sid": 3.0, "denoising": None}, "grad_norm": {"generator": 3.0},
        "share": {"sid": 0.75, "adversarial": 0.25}, "samples": 20, "nan_count": 3, "bad_gradients": 5, "bad_steps": 1,
        "steps": 3, "img_per_s": 5.0, "seconds": 4.0,
    }  # fmt: skip
    assert meter.finish() == expected
    # The next one has nothing of it; without measured norms it has no shares.
    meter.add(iteration(7.0, samples=4), 4)
    clock[0] += 0.5
    second = meter.finish()
    assert (second["losses"], second["samples"], second["steps"], second["img_per_s"]) == ({"sid": 7.0}, 4, 1, 8.0)
    assert "share" not in second
    assert meter.finish()["img_per_s"] == 0


def test_a_meter_goes_on_where_its_state_was_and_counts_no_time_between(clock):
    one, two = TickMeter(), TickMeter()
    one.add(iteration(1.0, samples=4), 4)
    clock[0] += 1
    state = one.state()
    one.add(iteration(99.0, samples=99), 99)  # behind the state
    clock[0] += 1000
    two.load(state)
    two.start()
    two.add(iteration(2.0, samples=4), 4)
    clock[0] += 1
    found = two.finish()
    assert (found["losses"], found["samples"], found["seconds"], found["img_per_s"]) == ({"sid": 1.5}, 8, 2.0, 4.0)


class Two:
    """Two processes, of which the other one has twice the numbers of this one."""

    world_size = 2

    def add_up(self, tensor):
        tensor.mul_(3)


def test_records_of_two_processes_are_means_of_losses_and_sums_of_samples():
    records = [
        iteration(2.0, samples=4, nan_samples=1),
        iteration(4.0, term_norms={"sid": torch.tensor(6.0)}, samples=8),
    ]
    records[0].grad_norms, records[0].bad_gradients = {"generator": torch.tensor(7.0)}, 5
    logs.share_records(records, Two())
    assert [(float(record.losses["sid"]), record.samples, record.nan_samples) for record in records] == [
        (3.0, 12, 3),
        (6.0, 24, 0),
    ]
    assert float(records[1].term_norms["sid"]) == 9.0
    # Gradients are averaged before.
    assert (float(records[0].grad_norms["generator"]), records[0].bad_gradients) == (7.0, 5)


def test_logs_are_written_again_from_a_state_and_by_the_first_process_alone(tmp_path):
    class Second(Ranks):
        rank = 1

        def from_first(self, task):
            return None

    record = {"train": [{"nimg": 16}, {"nimg": 32}], "evaluations": [{"nimg": 16, "fd": 1.0}]}
    other, files = RunFolder(tmp_path / "other", "d", ranks=Second(1)), RunFolder(tmp_path / "run", "d")
    for one in (other, files):
        with one:
            one.write_logs(record)
            one.log("train", {"nimg": 48})
    assert not (tmp_path / "other").exists()
    lengths = {path.name: len(path.read_text().splitlines()) for path in (tmp_path / "run").glob("*.jsonl")}
    assert lengths == {"train.jsonl": 3, "evaluations.jsonl": 1}
