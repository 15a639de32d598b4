"""Folders of images are trials, classes, or a question."""

import numpy as np
import pytest

from sida.eval.measuring.order import Trials, arranged
from tests.refused import refused


def order(names, n, asked=None, groups=None, classes=None):
    names = sorted(names)
    found = arranged("set", names, classes, len(names), Trials(n, 10, asked, groups))
    positions = np.arange(len(names)) if found.positions is None else found.positions
    return found, [names[at] for at in positions]


@pytest.mark.parametrize("pattern", ["out/run{t}/images/{i:05d}.png", "{t}/c{c}/{i:03d}.png"])
def test_each_folder_is_a_trial_where_an_option_says_so(pattern):
    """Also where folders have more images than a trial, or classes within."""
    runs = (0, 2, 10)
    names = [pattern.format(t=t, i=i, c=i // 20) for t in runs for i in range(60 + t)]
    found, ordered = order(names, 50, groups="trials")
    assert (found.trials, len({*ordered})) == (3, len(names))
    assert "trials by" in found.facts
    assert ("dealt" in found.facts) == ("c{c}" in pattern)
    for trial, run in enumerate(runs):
        start = pattern.format(t=run, i=0, c=0).partition("/" if pattern[0] == "{" else "/images")[0]
        assert all(name.startswith(f"{start}/") for name in ordered[trial * 50 : trial * 50 + 50])


def test_folders_without_the_images_of_the_trials_are_refused():
    names = [f"trial{t}/{i}.png" for t in range(3) for i in range(40)]
    refused("set: .*3 folders have 40.*--num-samples 40", order, names, 50, groups="trials")
    refused("set: .*--trials 3", order, names, 30, 4, groups="trials")
    assert order(names, 50, groups="classes")[0].facts == "dealt, seed 0"


def test_several_folders_for_several_trials_are_a_question():
    names = [f"{folder}/{i:03d}.png" for folder in "ab" for i in range(50)]
    refused("set: .*a, b.*--groups trials", order, names, 50)
    assert order(names, 50, groups="classes")[0].facts == "dealt, seed 0"
    # One trial takes images of all folders.
    assert order(names, 100)[0].facts == order(names, 50, 1)[0].facts == "dealt, seed 0"
    numbered = [f"{i // 50:05d}/{i:06d}.png" for i in range(200)]  # folders of a tool
    assert order(numbered, 50)[1] == numbered


def test_labels_tell_whether_images_are_sorted_by_class():
    names = [f"{i:03d}.png" for i in range(100)]
    assert order(names, 50, classes=np.repeat([0, 1], 50))[0].facts == "dealt, seed 0"
    assert order(names, 50, classes=np.tile([0, 1], 50))[0].positions is None
    # An option keeps the order of an array or of a single folder.
    assert order(names, 50, groups="trials", classes=np.repeat([0, 1], 50))[0].positions is None
