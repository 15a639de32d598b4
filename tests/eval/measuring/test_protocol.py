"""Protocols: content, digests, differences, faults."""

import dataclasses
import json

import pytest
import yaml

from sida.assets.registry import load_registry
from sida.config.datasets import dataset_spec
from sida.config.named_files import file_names
from sida.data.load import check_labels
from sida.eval.commands._options import extractor_options, pairs, parse_trials
from sida.eval.measuring.protocol import Protocol, load_protocol
from sida.eval.results.identity import Identity, comparable
from tests.assets.fault_server import write_registry
from tests.data.test_archive import write_counts
from tests.eval.measuring.specs import content, metric
from tests.plugins import needs
from tests.refused import refused

PUBLISHED = ["afhqv2", "cifar10", "ffhq64", "imagenet512", "imagenet64"]


def test_all_protocols_load_and_refer_to_registered_assets():
    registry = load_registry()
    assert set(PUBLISHED) | {"digits"} <= set(file_names("protocols"))
    for name in file_names("protocols"):
        protocol = load_protocol(name)
        assert protocol.name == name
        for source in protocol.sources.values():
            assert source.asset is None or source.asset in registry
        if name in PUBLISHED:
            assert (protocol.trials, protocol.ddof, protocol.allow_tf32) == (10, 1, False)


IDENTITY = {
    "num_samples": (4000, "n"),
    "seed0": (1, "seed0"),
    "label_dist": ("uniform", "classes"),
    "cov_ddof": (1, "settings"),
    "allow_tf32": (True, "settings"),
    "quantisation": ("truncate_unit", "settings"),
    "resolution": (16, "resolution"),
}


def identities(protocol: dict | Protocol) -> dict[str, Identity]:
    loaded = load_protocol(protocol)
    return {metric.key: loaded.identity(metric.key) for metric in loaded.metrics}


@pytest.mark.parametrize("key", IDENTITY)
def test_every_field_that_changes_a_value_changes_its_identity_and_is_named(key):
    value, field = IDENTITY[key]
    first, second = identities(content()), identities({**content(), key: value})
    for name, identity in first.items():
        was, now = dataclasses.asdict(identity), dataclasses.asdict(second[name])
        changed = {part for part in was if was[part] != now[part]}
        # Only distances of moments have a covariance.
        assert changed == ({field} if key != "cov_ddof" or name in ("fd", "fd_pixel") else set())
        assert (comparable(identity, second[name]) is None) == (not changed)


@pytest.mark.parametrize(
    "changes", [{"trials": 3}, {"is_spread": "splits"}, {"ddof": 0}, {"name": "mine", "notes": "n"}]
)
def test_the_rest_of_a_protocol_changes_no_identity(changes):
    changed = content() | changes
    changed["metrics"][0] |= {"label": "X", "decimals": 1}
    assert identities(changed) == identities(content())


def test_a_changed_metric_changes_its_identity_alone_and_a_further_one_none():
    changed = content()
    changed["metrics"][2]["k"] = 5
    changed["metrics"].append(changed["metrics"][0] | {"key": "fd_glyphs", "extractor": "glyphs"})
    found, before = identities(changed), identities(content())
    assert {key for key in before if found[key] != before[key]} == {"precision"}
    assert comparable(before["precision"], found["precision"]) == "metric: k=3 != k=5"
    changed["references"]["data"]["cov_ddof"] = 0
    assert {key for key, one in identities(changed).items() if one != found[key]} == {"fd", "fd_pixel", "fd_glyphs"}


@needs("judges")
@pytest.mark.parametrize("key", ["data", "heldout"])
def test_settings_of_both_references_of_a_ratio_change_its_identity(key):
    def found(**changes) -> Identity:
        references = {name: {"kind": "dataset"} for name in ("data", "heldout")}
        references[key] |= changes
        ratio = metric("ratio", "ratio", held_out="heldout")
        return identities(content(metrics=[ratio], references=references, watch=None))["ratio"]

    assert comparable(found(cov_ddof=1), found(cov_ddof=0))
    statistics = [{"kind": "statistics", "file": "a.pkl", "entry": entry} for entry in ("fid", "fd_dinov2")]
    assert comparable(*(found(**one) for one in statistics))


def test_class_counts_enter_identities_by_content(tmp_path):
    def protocol(counts: tuple[int, ...], name: str = "mine") -> Protocol:
        write_counts(tmp_path / f"{name}.json", name, counts)
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(content() | {"labels": f"{name}.json"}))
        return load_protocol(tmp_path / "p.yaml")

    first = identities(protocol((5, 5)))
    assert identities(protocol((5, 5), "other")) == first != identities("digits")
    assert "classes: " in str(comparable(first["is"], identities(protocol((5, 6)))["is"]))
    assert protocol((5, 6)).label_counts.counts == (5, 6)


def test_classes_are_counted_from_the_authors_list_of_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    identity = load_protocol("imagenet64").identity("fid")
    refused("labels-imagenet", lambda: load_protocol("imagenet64").label_counts)
    target = tmp_path / load_registry()["labels-imagenet"].target
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps({"labels": [["a.png", 1], ["b.png", 0], ["c.png", 1]]}))
    protocol = load_protocol(load_protocol("imagenet64").content())
    assert (protocol.label_counts.counts, protocol.identity("fid")) == ((1, 2), identity)
    data = dataset_spec("imagenet64", "x")
    refused(r"'labels-imagenet' .* 3, the data set 1,281,167", check_labels, protocol.label_counts, data, "x")


def mean(key, of):
    return {"key": key, "kind": "mean", "of": [of]}


COVERAGE = "docs.examples.coverage:Coverage"
#: Faulty metrics, by the place that is told.
METRICS = [
    ("", []),
    ("", [metric("a", "accuracy", reference=None)] * 2),
    ("", [metric("a", reference="dta")]),
    ("", [mean("m", "nothing")]),
    ("", [metric("fd"), mean("n", "fd"), mean("m", "n")]),
    ("[0].reference", [metric("a", reference=None)]),
    ("[0].k", [metric("a", k=3)]),
    ("[0].k", [metric("a", COVERAGE, k=0)]),
    ("[0].kind", [metric("a", "docs.examples.coverage:radii")]),
]
#: Faulty metrics of a plugin.
JUDGED = [
    ("", [metric("a", "memorisation", held_out="held-out")]),
    ("[0].statistic", [metric("a", "memorisation", held_out="data", statistic="share_")]),
    ("[0].normaliser", [metric("r", "ratio", normaliser=0.0)]),
]
#: Faulty references.
REFERENCES = [
    ("asset", {"kind": "statistics"}),
    ("fixed", {"kind": "dataset", "fixed": True}),
]


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        *((f"metrics{place}", {"metrics": faulty}) for place, faulty in METRICS),
        *(pytest.param(f"metrics{place}", {"metrics": one}, marks=needs("judges")) for place, one in JUDGED),
        *((f"references.data.{key}", {"references": {"data": faulty}}) for key, faulty in REFERENCES),
        ("metrics", {"if_cached": [metric("fid", extractor="inception", reference="dta")]}),
        ("labels", {"labels": "cifar10", "label_dist": "uniform"}),
        ("watch", {"watch": ["fd_pixel"]}),
        ("selection", {"selection": "is"}),
    ],
)
def test_faults_name_the_key(place, changes):
    assert refused("", lambda: load_protocol(content(**changes)).sources).where == f"protocol 'digits'.{place}"


def test_files_and_names(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content()))
    assert load_protocol(path) == load_protocol(str(path)) == load_protocol("digits")
    monkeypatch.chdir(tmp_path)  # presets name protocols relative to the root, wherever one stands
    assert load_protocol("config/protocols/digits.yaml") == load_protocol("digits")
    refused("did you mean 'cifar10'", load_protocol, "cifar11")
    refused("no such file", load_protocol, "missing.yaml")


def test_options_of_trials_and_pairs():
    assert parse_trials(None, 3) == [0, 1, 2]
    assert parse_trials("0-9", 10) == list(range(10))
    assert parse_trials("7,0,2-3", 10) == [0, 2, 3, 7]
    for bad in ("", "a", "3-1", "1-", "-3", "0-10"):
        refused("--trials", parse_trials, bad, 10)
    # Key value options.
    assert pairs(["a=b=c"], "--reference") == {"a": "b=c"}
    assert extractor_options(["inception.path=x.pt"]) == {"inception": {"path": "x.pt"}}
    for bad in ("a", "=b", "a="):
        refused("KEY=VALUE", pairs, [bad], "--reference")
    refused(r"NAME\.KEY", extractor_options, ["path=x"])


def test_metrics_of_downloads_are_added_where_these_are_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    asked = content()
    downloaded = {"fid": "inception", "fd_dinov2": "dinov2"}
    asked["if_cached"] = [
        {"key": key, "kind": "frechet", "extractor": name, "reference": "data"} for key, name in downloaded.items()
    ]
    without = load_protocol(asked)
    assert {"fid", "fd_dinov2"}.isdisjoint(metric.key for metric in without.metrics)
    target = tmp_path / load_registry()["inception"].target
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"")
    found = load_protocol(asked)
    assert [metric.key for metric in found.metrics] == [*(metric.key for metric in without.metrics), "fid"]
    assert found.watched == without.watched  # so that no training is repeated
    # A job computes what its spec says, whatever its cache has.
    target.unlink()
    assert load_protocol(found.content()).facts() == found.facts() != without.facts()
    # Neither changes a value of the other metrics.
    assert {metric.key: found.identity(metric.key) for metric in without.metrics} == identities(without)
    # A registry without these downloads.
    monkeypatch.setenv("SIDA_ASSETS", str(write_registry(tmp_path / "assets.tsv")))
    assert load_protocol(asked).metrics == without.metrics


def test_a_protocol_extends_one_beside_it(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(content()))
    (tmp_path / "look.yaml").write_text("extends: base.yaml\nname: look\nnum_samples: 100\ntrials: 1\n")
    look, base = load_protocol(tmp_path / "look.yaml"), load_protocol(tmp_path / "base.yaml")
    assert look == dataclasses.replace(base, name="look", num_samples=100, trials=1)
    assert comparable(look.identity("fd"), base.identity("fd")) == "images per trial: 100 != 2,500"
    # Other metrics than those of the file that it extends are watched as they are by default.
    other = "{key: a, kind: frechet, extractor: digits, reference: data}"
    (tmp_path / "look.yaml").write_text(f"extends: base.yaml\nmetrics: [{other}]\n")
    assert [metric.key for metric in load_protocol(tmp_path / "look.yaml").watched] == ["a"]
    for other, place in (
        ("look.yaml", "no protocol 'look'"), ("../base.yaml", "extends: .*beside this one"), ("cifar11.yaml", "cifar11")
    ):  # fmt: skip
        (tmp_path / "look.yaml").write_text(f"extends: {other}\nname: look\n")
        refused(f"yaml: .*{place}", load_protocol, tmp_path / "look.yaml")


def test_a_comparison_keeps_the_name_that_was_typed_and_a_protocol_of_other_references_is_marked(tmp_path):
    (tmp_path / "two.yaml").write_text("extends: pair-pixels.yaml\nname: two\n")
    assert load_protocol(tmp_path / "two.yaml").against(5).name == "two"
    assert load_protocol("digits").against(5).name == "digits-pair"


@pytest.mark.parametrize("name", ["protocols", "anywhere"])
def test_a_protocol_extends_a_shipped_one_by_its_name(tmp_path, name):
    (folder := tmp_path / name).mkdir()
    (folder / "mine.yaml").write_text("extends: cifar10.yaml\nname: mine\n")
    mine, base = load_protocol(folder / "mine.yaml"), load_protocol("cifar10")
    assert mine.content() == base.content() | {"name": "mine"}
    # The one beside it comes first; one of neither is refused by its key, and so is a path.
    (folder / "cifar10.yaml").write_text(yaml.safe_dump(content()))
    assert load_protocol(folder / "mine.yaml").num_samples == 2500
    for other, told in (("cifar11.yaml", "extends: .*cifar11"), ("../cifar10.yaml", "extends: .*write it alone")):
        (folder / "mine.yaml").write_text(f"extends: {other}\nname: mine\n")
        refused(f"mine.yaml: {told}", load_protocol, folder / "mine.yaml")
