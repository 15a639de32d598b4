"""Groups of images are trials, classes, or a question."""

import numpy as np
import pytest

from sida.eval.measuring.order import Trials, arranged
from tests.refused import refused


def order(names, n, asked=None, groups=None, classes=None):
    names = sorted(names)
    found = arranged("set", names, classes, len(names), Trials(n, 10, asked, groups))
    positions = np.arange(len(names)) if found.positions is None else found.positions
    return found, [names[at] for at in positions]


def pure(names, n, trials, run):
    return all(len({run(name) for name in names[t * n : (t + 1) * n]}) == 1 for t in range(trials))


@pytest.mark.parametrize(
    ("pattern", "run"),
    [
        ("out/sida_run{t}/images/{i:05d}.png", lambda name: name.split("/")[1]),
        ("{i:05d}_seed={t}.png", lambda name: name.split("=")[1]),
        ("Repeat {t}/c{c}/{i:03d}.png", lambda name: name.split("/")[0]),
    ],
    ids=["folders", "names", "classes within"],
)
def test_each_run_is_a_trial(pattern, run):
    """Also where pictures of several runs alternate, runs have more images than a trial, or classes within."""
    names = [pattern.format(t=t, i=i, c=i // 20) for t in (0, 1, 10) for i in range(60 + t)]
    found, ordered = order(names, 50)
    assert found.trials == 3
    assert "trials by" in found.facts
    assert pure(ordered, 50, 3, run)
    assert len({*ordered}) == len(names)
    assert [run(ordered[t * 50])[-1] for t in range(3)] == [run(name)[-1] for name in (names[0], names[60], names[-1])]
    assert ("dealt" in found.facts) == ("c{c}" in pattern)


def test_runs_without_the_images_of_the_trials_are_refused():
    names = [f"trial{t}/{i}.png" for t in range(3) for i in range(40)]
    refused("set: .*3 runs of 40.*--num-samples 40", order, names, 50)
    refused("set: .*--trials 3", order, [*names, *names], 50, 4)
    assert order(names, 50, groups="classes")[0].facts == "dealt, seed 0"
    # All images are one trial.
    assert order(names, 120)[0].trials is None


@pytest.mark.parametrize("folders", [("a", "b"), ("0", "1")])
def test_groups_of_a_trials_size_with_other_names_are_a_question(folders):
    names = [f"{folder}/{i:03d}.png" for folder in folders for i in range(50)]
    refused("set: .*--groups trials", order, names, 50)
    found, ordered = order(names, 50, groups="trials")
    assert (found.trials, ordered) == (2, names)
    assert order(names, 50, groups="classes")[0].trials is None


@pytest.mark.parametrize("pattern", ["{c}/{i}.png", "label{c}/{i:03d}.png", "n0144076{c}/{i}.jpg"])
def test_classes_are_dealt(pattern):
    sizes = (30, 60, 70) if pattern[0] == "{" else (50, 50, 50)
    found, _ = order([pattern.format(c=c, i=i) for c in range(3) for i in range(sizes[c])], 50)
    assert found.facts == "dealt, seed 0"


def test_labels_tell_trials_from_classes():
    names = [f"{folder}/{i:03d}.png" for folder in "ab" for i in range(50)]
    assert order(names, 50, classes=np.repeat([0, 1], 50))[0].facts == "dealt, seed 0"
    assert order(names, 50, classes=np.tile([0, 1], 50))[0].trials == 2


def test_an_array_of_trials_that_are_sorted_by_class_is_dealt_within_them():
    classes = np.tile(np.repeat(np.arange(5), 40), 3)
    found = arranged("a.npz", (), classes, 600, Trials(200, 10))
    assert found.facts == "dealt within trials, seed 0"
    assert (found.positions // 200 == np.repeat(np.arange(3), 200)).all()
    assert arranged("a.npz", (), np.sort(classes), 600, Trials(200, 10)).facts == "dealt, seed 0"
