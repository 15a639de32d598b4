"""Folders of images are trials or classes where an option says so, else a question."""

import numpy as np
import pytest

from sida.eval.measuring.stores import open_images
from tests.data.test_archive import png, write_folder
from tests.refused import refused


def order(folder, names, n, asked=None, groups=None):
    """The store of a folder of pictures, and the names in the order in which they are measured."""
    names = sorted(names)
    pictures = np.arange(len(names), dtype=np.uint16).view(np.uint8).reshape(-1, 1, 2)
    write_folder(folder / "set", {name: png(picture) for name, picture in zip(names, pictures)})
    store = open_images(folder / "set")
    store.arrange(groups, n, 10, asked)
    read = store.read(0, len(names)).reshape(-1, 2).copy().view(np.uint16)[:, 0]
    return store, [names[number] for number in read]


@pytest.mark.parametrize("pattern", ["out/run{t}/images/{i:05d}.png", "{t}/c{c}/{i:03d}.png"])
def test_each_folder_is_a_trial_where_an_option_says_so(tmp_path, pattern):
    """Also where folders have more images than a trial, or classes within."""
    runs = (0, 2, 10)
    names = [pattern.format(t=t, i=i, c=i // 20) for t in runs for i in range(60 + t)]
    store, ordered = order(tmp_path, names, 50, groups="trials")
    assert (store.trials, store.order, len({*ordered})) == (3, "trials by its folders", len(names))
    for trial, run in enumerate(runs):
        start = pattern.format(t=run, i=0, c=0).partition("/" if pattern[0] == "{" else "/images")[0]
        assert all(name.startswith(f"{start}/") for name in ordered[trial * 50 : trial * 50 + 50])


def test_folders_without_the_images_of_the_trials_are_refused(tmp_path):
    names = [f"trial{t}/{i}.png" for t in range(3) for i in range(40)]
    refused("set: .*3 folders have 40.*--num-samples 40", order, tmp_path, names, 50, groups="trials")
    refused("set: .*--trials 3", order, tmp_path, names, 30, 4, groups="trials")


def test_several_folders_for_several_trials_are_a_question(tmp_path):
    names = [f"{folder}/{i:03d}.png" for folder in "ab" for i in range(50)]
    refused("set: .*a, b.*--groups trials", order, tmp_path, names, 50)
    # Folders that are classes are dealt, with their names.
    store, ordered = order(tmp_path, names, 50, groups="classes")
    assert store.order == "dealt, seed 0"
    assert {*ordered} == {*names} != {*ordered[:50]} > {ordered[0]}
    assert 15 < sum(name.startswith("a") for name in ordered[:50]) < 35
    assert store.name(0).endswith(ordered[0])
    # One trial takes images of all folders, in their order.
    assert order(tmp_path, names, 100)[1] == order(tmp_path, names, 50, 1)[1] == names


def test_numbered_folders_of_a_tool_are_no_question(tmp_path):
    numbered = [f"{i // 50:05d}/{i:06d}.png" for i in range(200)]
    assert order(tmp_path, numbered, 50)[1] == numbered
