"""Labels beside pictures: every file of labels is read, named or refused."""

import json

import pytest

from tests.data.test_archive import pictures, png, tar_of, write_folder, write_zip
from tests.refused import command, refused

PNGS = [*map(png, pictures(12))]


def rows(names, labels, column="label", form="jsonl"):
    """Content of a metadata.jsonl or metadata.csv."""
    if form == "csv":
        return "".join([f"file_name,{column}\n", *(f"{name},{label}\n" for name, label in zip(names, labels))]).encode()
    return "".join(json.dumps({"file_name": n, column: label}) + "\n" for n, label in zip(names, labels)).encode()


def prepare(tmp_path, source, *options):
    return command("data", "prepare", "--source", source, "--out", tmp_path / "out.zip", *options)


def ways(tmp_path, source, name):
    """Calls of the commands that read labels, where a folder's is one."""
    yield prepare, tmp_path, source
    yield command, "data", "check", source
    yield command, "score", source, "--protocol", "digits", "--num-samples", 9, "--trials", 1


def test_labels_in_each_class_folder_are_refused_with_their_place(tmp_path):
    content = {}
    for label, folder in enumerate(("dog", "ant", "cat")):
        names = [f"{index}.png" for index in range(3)]
        content |= {f"{folder}/{name}": data for name, data in zip(names, PNGS[3 * label :])}
        content[f"{folder}/metadata.csv"] = rows(names, [label] * 3, form="csv")
    source = write_folder(tmp_path / "in", content)
    refused("ant/metadata.csv.*--labels none", prepare, tmp_path, source)
    assert "no classes" in prepare(tmp_path, source, "--labels", "none")
    # Those of other parts do not count.
    content = {f"{part}/{name}": data for part in ("train", "test") for name, data in content.items() if "dog" in name}
    content = {name.replace("dog/", ""): data for name, data in content.items()}
    assert "1 classes of 3" in prepare(tmp_path, write_folder(tmp_path / "parts", content))


@pytest.mark.parametrize("column", ["labels", "Class", " label", "target"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_column_with_another_name_is_refused(tmp_path, column, form):
    names = [f"{index}.png" for index in range(5)]
    content = {**dict(zip(names, PNGS)), f"metadata.{form}": rows(names, [0, 1, 0, 1, 2], column, form)}
    refused(
        f"metadata.{form}: has no column 'label', but '{column}'",
        prepare,
        tmp_path,
        write_folder(tmp_path / "in", content),
    )


def test_a_file_of_captions_is_named(tmp_path):
    names = [f"{index}.png" for index in range(5)]
    content = {**dict(zip(names, PNGS)), "metadata.csv": rows(names, "abcde", "text", "csv")}
    assert "skipped: 1 .csv" in prepare(tmp_path, write_zip(tmp_path / "in.zip", content))


@pytest.mark.parametrize("name", ["dataset.json", "metadata.jsonl"])
def test_labels_of_pictures_that_are_missing_are_refused_by_every_command(tmp_path, name):
    names = [f"{index:02d}.png" for index in range(12)]
    labels = [index % 3 for index in range(12)]
    whole = json.dumps({"labels": [*zip(names, labels)]}).encode() if name.endswith("n") else rows(names, labels)
    source = write_folder(tmp_path / "in", {**dict(zip(names[:9], PNGS)), name: whole})
    for call, *arguments in ways(tmp_path, source, name):
        refused(f"{name}: has labels of 3 pictures that are missing, such as 09.png", call, *arguments)
    assert "9 pictures" in prepare(tmp_path, source, "--labels", "none")


def test_one_class_is_not_of_a_picture_and_its_mask(tmp_path):
    content = {
        f"{key:04d}.{part}.png": PNGS[key + 6 * (part == "mask")] for key in range(4) for part in ("image", "mask")
    }
    content |= {f"{key:04d}.cls": str(key % 2).encode() for key in range(4)}
    source = tmp_path / "in.tar"
    source.write_bytes(tar_of(content))
    refused("0000.image.png and 0000.mask.png have one class, of 0000.cls", prepare, tmp_path, source)


@pytest.mark.parametrize(
    ("names", "are_classes"), [(["data-000.tar", "data-001.tar"], False), (["n0144.tar", "n0177.tar"], True)]
)
def test_shards_in_an_archive_are_not_taken_for_classes(tmp_path, names, are_classes):
    inner = {name: tar_of({f"{3 * i + j}.png": PNGS[3 * i + j] for j in range(3)}) for i, name in enumerate(names)}
    source = tmp_path / "all.tar"
    source.write_bytes(tar_of(inner))
    if are_classes:
        assert "classes: 0 = n0144, 1 = n0177" in prepare(tmp_path, source)
    else:
        refused("data-000, data-001.*--labels folders or none", prepare, tmp_path, source)
        assert "6 pictures" in prepare(tmp_path, source, "--labels", "none")
