"""References that training never saw: data sets of their own, memorisation, what a training watches, faults."""

import json

import pytest

from eval.measuring.measure import measure
from eval.measuring.monitor import make_monitor, monitor_facts
from eval.measuring.protocol import load_protocol
from eval.results.measurements import long_rows
from sida.config.datasets import dataset_spec
from sida.data import load_dataset
from sida.networks import build_network
from sida.networks.file import save_network
from tests.eval.measuring.specs import data_spec, metric, protocol
from tests.refused import refused
from tests.training.toy import NETWORK
from workflow.preset import Preset
from workflow.preset.placeholders import check_preset

TRAIN, HELD_OUT = (dataset_spec(name, "test") for name in ("digits-train", "digits-heldout"))
COPIES = metric("copies", "memorisation", "pixels", "train", held_out="heldout")
FIXED = {name: {"kind": "dataset", "dataset": f"digits-{name}", "fixed": True} for name in ("train", "heldout")}


def content(**changes):
    references = {"fd": "train", "fd_heldout": "heldout", "fd_own": "own"}
    metrics = [metric(key, "frechet", "pixels", name) for key, name in references.items()]
    metrics += [COPIES, *({**COPIES, "key": key, "statistic": key} for key in ("ratio", "tail"))]
    return protocol(*metrics, num_samples=400, references=FIXED | {"own": {"kind": "dataset"}}) | changes


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    specs = {data["name"]: data_spec(dataset=data, protocol=content()) for data in (TRAIN, HELD_OUT)}
    return {name: measure(spec, folder / name, [0])[0] for name, spec in specs.items()}


def test_copies_of_training_images_and_held_out_images_are_told_apart(records):
    train, held_out = (records[name]["metrics"] for name in ("digits-train", "digits-heldout"))
    assert (train["copies"], train["ratio"], train["tail"]) == (1, 0, 1)
    assert held_out["copies"] == pytest.approx(0.5, abs=0.05)
    assert held_out["ratio"] == pytest.approx(1, abs=0.1)
    assert held_out["tail"] == pytest.approx(0.05, abs=0.04)
    assert records["digits-train"]["details"]["copies"]["z"] > 10


def test_a_fixed_reference_is_its_data_set_whatever_the_generator_was_trained_on(records):
    train, held_out = (records[name]["metrics"] for name in ("digits-train", "digits-heldout"))
    assert train["fd"] == train["fd_own"] < train["fd_heldout"]
    assert held_out["fd_heldout"] == held_out["fd_own"] < held_out["fd"]
    references = [record["metric_references"] for record in records.values()]
    assert references[0]["fd"] == references[1]["fd"]
    assert references[0]["fd_own"] != references[1]["fd_own"]
    assert references[0]["copies"]["name"] == "digits-train, digits-heldout"
    digests = {row["metric"]: row["reference_sha256"] for row in long_rows([records["digits-train"]])}
    assert len({digests[key] for key in ("fd", "fd_heldout", "copies")}) == 3


def held_out(record):
    return {row["metric"]: row.get("held_out") for row in long_rows([record])}


def test_a_record_says_how_many_held_out_images_the_generator_has_seen(records, tmp_path):
    train, seen = (held_out(records[name]) for name in ("digits-train", "digits-heldout"))
    assert (train["fd"], train["fd_own"]) == (None, None)
    assert (train["fd_heldout"], seen["fd_heldout"]) == ("0/201", "300/300")
    assert seen["copies"] == "300/300"
    # The archive of all digits has another hash, and so has a network that was trained on it.
    whole = measure(data_spec(dataset=dataset_spec("digits", "test"), protocol=content()), tmp_path / "all", [0])[0]
    found, looked = map(int, held_out(whole)["fd_heldout"].split("/"))
    assert 100 < found == looked


@pytest.mark.parametrize(
    ("split", "known", "found"), [("train", True, "0/"), ("all", True, "all"), ("train", False, "unknown")]
)
def test_a_network_is_known_by_its_header(tmp_path, split, known, found):
    data = load_dataset({"name": "d", "kind": "digits", "split": split})
    header = {"images": data.sketch.record()} if known else {}
    save_network(build_network(NETWORK), tmp_path / "n.safetensors", header)
    spec = {"network": str(tmp_path / "n.safetensors"), "sampler": {"kind": "one_step"}, "method": "sid"}
    limited = content(num_samples=20, metrics=[metric("fd_heldout", "frechet", "pixels", "heldout")])
    said = held_out(measure(data_spec(dataset=TRAIN, protocol=limited, **spec), tmp_path, [0])[0])["fd_heldout"]
    count, _, looked = said.partition("/")
    assert said.startswith(found) or (found == "all" and count == looked and int(count) > 100)


def test_which_data_set_is_fixed_is_part_of_the_digest():
    def changed(**reference):
        return content(references=content()["references"] | {"heldout": {"kind": "dataset", **reference}})

    protocols = [content(), changed(dataset="digits-heldout"), changed(dataset="digits", fixed=True)]
    protocols.append(changed(dataset="digits"))
    digests = [json.dumps(load_protocol(one).recorded_facts(), sort_keys=True) for one in protocols]
    # Without `fixed` the name is what is taken where the generator names no data set: as before.
    assert len(set(digests)) == 3
    assert digests[1] == digests[3]


def test_a_training_watches_what_the_protocol_says():
    def resampled(seeds):
        data = load_dataset(TRAIN)
        return data.images([seed % len(data) for seed in seeds]), None

    found = {
        watch: make_monitor(TRAIN, protocol=content(watch=watch), num_samples=300)(resampled)
        for watch in (None, ("fd", "fd_heldout", "fd_own"))
    }
    assert {"fd", "fd_heldout", "fd_own"} <= set(found["fd", "fd_heldout", "fd_own"])
    # A protocol that says nothing watches the metric that chooses the network.
    assert set(found[None]) == {"selection", "num_samples", "fd", "fd_std", "fd_trials"}
    assert found["fd", "fd_heldout", "fd_own"]["fd"] == found[None]["fd"]
    facts = [monitor_facts(content(watch=watch)) for watch in (None, ["fd"], ["fd", "fd_own"])]
    assert facts[0] == facts[1] != facts[2]
    assert set(facts[1]["references"]) == {"train"}  # what is not watched is no reason to train again
    assert load_protocol(content()).facts() == load_protocol(content(watch=["fd"])).facts()


def test_a_data_set_that_is_not_there_is_told_before_the_first_job(tmp_path):
    references = content()["references"] | {"heldout": {"kind": "dataset", "dataset": "digits-held", "fixed": True}}
    (tmp_path / "own.yaml").write_text(json.dumps(content(references=references)))
    header, row = "run\tlabel\tmethod\tsampler", "data\tData\tdata\tdata"
    (tmp_path / "own.tsv").write_text(f"{header}\n{row}\n")
    preset = {"preset": "own", "runs": "own.tsv", "dataset": "digits-train", "protocol": "own.yaml", "tables": []}
    preset |= {"figures": [], "samplers": {"data": {"kind": "data"}}, "teachers": {}, "recipes": {}}
    refused(r"references\.heldout: .*did you mean", lambda: check_preset(Preset(preset, "own", [tmp_path])))
