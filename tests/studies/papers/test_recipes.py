"""Recipes of the paper, of GDD and of other distillers: each value is a paper's or its code's."""

import dataclasses
import re
from collections.abc import Callable

import pytest

from sida.assets.registry import load_registry
from sida.config.lookup import ROOT
from sida.config.settings import from_mapping
from sida.eval.results.published import load_published
from sida.eval.tables.layout import load_layout
from sida.methods.gdd import GDDOptions, official_backbones
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.workflow.planning.steps import network_cost, student_cost
from sida.workflow.preset import Preset
from sida.workflow.preset.jobs import training
from tests.eval.synthetic_output import csv_rows
from tests.work import assert_work_of

DATASETS = {"afhqv2": "afhq64-v2", "cifar10": "cifar10-cond", "imagenet512-latents": "imagenet512"}
OURS = {"sid": "SiD", "sida": "SiDA", "sid2a": "SiD2A"}
#: Files whose name and title disagree: their length says nothing (docs/differences.tsv, 44 and 45).
DOUBTFUL = "file named"


@dataclasses.dataclass
class Case:
    """A row of the sheet with its settings, and what the reference says of its data set and size, also of SiD's row."""

    preset: Preset
    run: str
    config: object
    network: dict
    reference: dict[str, tuple[str, str]]
    sid: dict[str, tuple[str, str]]

    def value(self, name):
        """The code's value, or the paper's where the code has none; the paper's for the batch of a GPU."""
        paper, code = self.reference[name]
        return paper if name == "batch size per GPU" and paper else code.removesuffix(" (default)") or paper

    @property
    def row(self):
        return self.preset.runs[self.run]


def recorded(file, *columns):
    """Values that the paper and its code give each hyperparameter, by these columns."""
    found: dict[tuple, dict] = {}
    for line in csv_rows(ROOT / "tests/workflow" / file):
        values = found.setdefault(tuple(line[column] for column in columns), {})
        values[line["hyperparameter"]] = (line.get("paper_value"), line["code_value"])
    return found


def resolved(paper, run):
    """A row's settings with the official ones, and its teacher's network."""
    network = paper.settings.teachers[paper.runs[run].teacher].network
    return resolve_recipe(from_mapping(DistillConfig, training(paper, run).spec, run), network), network


@pytest.fixture(scope="module")
def cases(paper):
    reference, found = recorded("hyperparameters.csv", "method", "dataset", "variant"), []
    for run in paper.students:
        if run.family == "Ablation" or run.method not in OURS or "-ddo-" in run.run:
            continue
        config, network = resolved(paper, run.run)
        size = run.recipe.split("/")[1].split("-")[0].upper() if "imagenet512" in run.recipe else ""
        key = (OURS[run.method], DATASETS.get(run.dataset, run.dataset), size)
        found.append(Case(paper, run.run, config, network, reference[key], reference["SiD", *key[1:]]))
    assert len({id(case.reference) for case in found}) == len(reference) == 33
    return found


def number(pick: Callable) -> Callable:
    return lambda case, name: (pick(case.config), float(re.match(r"[\d.e-]+", case.value(name))[0]))


def budget(case, name):
    """The released file's length, else the script's: its number behind the row's α where there are several."""

    def of_alpha(text):
        by_alpha = dict(re.findall(r"a([\d.]+): ([\d.]+)", text))
        return by_alpha.get(f"{case.row.alpha:.1f}", "") if by_alpha else text

    released = of_alpha(case.reference["budget of the released file (Mimg)"][1])
    if not released or DOUBTFUL in released:
        released = re.match(r"\d+", of_alpha(case.reference["duration (Mimg)"][1]))[0]
    return case.config.total_kimg, 1000 * float(released)


def start(case, name):
    """From the teacher, or the SiD generator of that length (of SiD's script for a doubtful file)."""
    code = case.value(name)
    if code == "teacher":
        return case.row.init, None
    parent = case.preset.runs[case.row.init]
    is_doubtful = DOUBTFUL in code
    kimg = 1000 * float(case.sid["duration (Mimg)"][1]) if is_doubtful else int(re.search(r"\d{5,}", code)[0])
    alpha = re.search(r"alpha ([\d.]+)", code)
    trained = case.preset.settings.recipes[parent.recipe]["total_kimg"]
    return (
        (parent.method, parent.teacher, parent.alpha, trained),
        ("sid", case.row.teacher, float(alpha[1]) if alpha else 1.0, kimg),
    )


def architecture(case, name):
    kind, channels, mult = re.match(r"(\w+) \(channels (\d+) x \[([\d,]+)\]\)", case.value(name)).groups()
    kwargs = case.network["kwargs"]
    unet = {"ddpmpp": "SongUNet", "adm": "DhariwalUNet"}[kind]
    shown = ",".join(map(str, kwargs["channel_mult"]))
    return (kwargs["model_type"], kwargs["model_channels"], shown), (unet, int(channels), mult)


def parameters(case, name):
    import torch

    from sida.networks import build_network

    with torch.device("meta"):
        net = build_network(case.network)
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    paper = case.reference[name][0]
    published = float(paper[:-1]) * {"M": 1, "B": 1000}[paper[-1]]
    return millions, pytest.approx(published, abs=0.6 if paper[-1] == "M" else 50)


def switched(flag_of):
    """A flag of the EDM2 scripts; SiD's layers normalise whatever the flag says."""
    return lambda case, name: (flag_of(case.config), case.value(name) == "1")


def noise(case, name):
    return (case.config.P_mean, case.config.P_std), tuple(map(float, re.findall(r"-?\d\.\d", case.value(name))))


def archive(case, name):
    path = case.preset.data.named(case.row.dataset)["path"]
    # The scripts' archive for AFHQ-v2 is FFHQ's by mistake; SiD on latents asks for labels alone.
    wanted = case.value(name)
    wanted = {"ffhq-64x64.zip (BUG)": "afhqv2-64x64.zip", "dataset.json (labels only)": "img512-sd.zip"}.get(
        wanted, wanted
    )
    return path.rsplit("/", 1)[-1], wanted


def file_of_teacher(case, name):
    checkpoint = case.preset.settings.teachers[case.row.teacher].checkpoint
    return load_registry()[checkpoint].target.rsplit("/", 1)[-1], case.value(name)


kimg = lambda name: (
    lambda case, key: (getattr(case.config, name), float(re.search(r"100k|100,000", case.value(key)) and 100))
)
CHECKS: dict[str, Callable] = {
    "alpha": lambda case, name: (case.config.alpha in map(float, re.findall(r"[\d.]+", case.reference[name][0])), True),
    "batch size": number(lambda c: c.batch_size),
    "batch size per GPU": number(lambda c: c.batch_gpu),
    "learning rate psi": number(lambda c: c.lr if c.fake_score_lr is None else c.fake_score_lr),
    "learning rate theta": number(lambda c: c.lr),
    "learning-rate schedule": lambda case, name: ((case.config.lr_decay_start, case.value(name)), (1, "constant")),
    "lambda_sid (--lsg)": number(lambda c: c.lambda_sid),
    "score-loss scale (--ls)": number(lambda c: c.lambda_fake_score),
    "lambda_adv (--lsg_gan)": number(lambda c: c.lambda_adv),
    "discriminator weight (--lsd)": number(lambda c: c.lambda_d),
    "warm-up of the generator": lambda case, name: (case.config.warmup_kimg, 0),
    "stage 1: psi only (images)": kimg("warmup_kimg"),
    "stage 2: SiD generator loss (images)": lambda case, name: (case.config.adversarial_kimg, 200),
    "stage 1 / stage 2 (images)": lambda case, name: (
        (case.config.warmup_kimg, case.config.adversarial_kimg),
        (100, 200),
    ),
    "gradient value clipping of psi": lambda case, name: (case.config.grad_clip_value, float(case.value(name) == "1")),
    "EMA half-life (Mimg)": number(lambda c: c.ema_half_life_kimg / 1000),
    "EMA ramp-up ratio": number(lambda c: c.ema_rampup_ratio),
    "fp16": number(lambda c: float(c.fp16)),
    "Adam eps": number(lambda c: c.eps),
    "Adam beta1 psi": number(lambda c: c.betas[0]),
    "Adam beta1 theta": number(lambda c: (c.generator_betas or c.betas)[0]),
    "Adam beta2": lambda case, name: ({b[1] for b in (case.config.betas, case.config.generator_betas) if b}, {0.999}),
    "sigma_init": number(lambda c: c.init_sigma),
    "t_max": number(lambda c: c.t_max),
    "psi-step noise": noise,
    "dropout": number(lambda c: c.dropout),
    "augment probability": number(lambda c: c.augment["p"] if c.augment else 0.0),
    "cres": lambda case, name: (
        list(map(str, case.network["kwargs"]["channel_mult"])),
        re.findall(r"\d", case.value(name)),
    ),
    "architecture": architecture,
    "teacher checkpoint": file_of_teacher,
    "initialisation of G": start,
    "duration (Mimg)": budget,
    "budget of the released file (Mimg)": budget,
    "data zip": archive,
    "data": archive,
    "parameters": parameters,
    "base channels": lambda case, name: (case.network["kwargs"]["model_channels"], int(case.value(name))),
    "force_normalization": switched(lambda c: c.weight_norm != "off"),
    "return_logvar": switched(lambda c: c.logvar),
}


def test_every_value_is_the_papers_or_its_codes(cases):
    compared = 0
    for case in cases:
        for name in case.reference:
            ours, theirs = CHECKS[name](case, name)
            assert ours == theirs, f"{case.run}: {name}"
            compared += 1
    assert compared > 1200


def test_both_values_of_alpha_are_rows(paper):
    for dataset in ("cifar10-uncond", "cifar10-cond", "imagenet64", "ffhq64", "afhq64"):
        of_method = lambda method, dataset=dataset: {
            run.alpha
            for run in paper.students
            if run.method == method and run.run.startswith(dataset) and "ablation" not in run.run
        }
        assert (of_method("sid"), of_method("sida"), of_method("sid2a")) == ({1.0, 1.2}, {1.0}, {1.0, 1.2})
    for method in ("sida", "sid2a"):
        ablated = {run.alpha for run in paper.students if run.recipe == f"cifar10/ablation-{method}"}
        assert ablated == {-0.25, 0.0, 0.5, 0.75, 1.0, 1.2, 1.5}


def test_rows_from_ddo_teachers_have_the_recipe_of_those_from_edm(paper):
    found = [run.run for run in paper.students if "-ddo-" in run.run]
    assert found
    for run in found:
        ours, base = (training(paper, name).spec for name in (run, run.replace("-ddo", "")))
        assert {key for key in ours if ours[key] != base[key]} <= {"name", "seed", "teacher"}, run
        assert ours["teacher"] != base["teacher"]


GDD_DATASETS = {"afhqv2": "afhq64-v2", "cifar10": "cifar10-cond"}
BACKBONES = {"VGG16-BN": "vgg16_bn", "EfficientNet-lite0": "efficientnet_lite0"}
BACKBONES |= {"DeiT-base distilled": "deit_base_distilled"}


def test_every_value_of_gdd_is_its_codes(paper):
    registry, reference = load_registry(), recorded("hyperparameters_gdd.csv", "method", "dataset")
    rows = [run for run in paper.students if run.method in ("gdd", "gdd-i")]
    seen = set()
    for run in rows:
        teacher = paper.settings.teachers[run.teacher]
        config, _ = resolved(paper, run.run)
        options = from_mapping(GDDOptions, config.options, run.run)
        key = (run.method.upper(), GDD_DATASETS.get(run.dataset, run.dataset))
        values = {name: code for name, (_, code) in reference[key].items()}
        seen.add(key)
        assert registry[teacher.checkpoint].target.rsplit("/", 1)[-1] == values["teacher checkpoint"]
        assert config.batch_size == int(values["batch size"])
        # Four processes: a round is the batch of one, whose images the official losses add up.
        assert options.loss_images == config.batch_size / int(values["GPUs"][0])
        # On ImageNet half of it, so that a training fits a card: docs/differences.tsv.
        assert config.batch_gpu == 64 == options.loss_images / (1 + (run.dataset == "imagenet64"))
        assert (config.fp16, config.half) == ((True, "bfloat16") if run.dataset == "imagenet64" else (False, "float16"))
        assert (config.lr, config.fake_score_lr) == (float(values["learning rate G"]), float(values["learning rate D"]))
        assert "0, 0.99 (D beta2 0.99^(16/17))" in values["Adam betas"]
        assert (config.betas, config.eps) == ((0.0, 0.99), 1e-8)
        assert config.ema_half_life_kimg == 1000 * float(values["EMA half-life (Mimg)"])
        assert config.total_kimg == 1000 * float(values["duration (Mimg)"])
        assert config.dropout == float(values["dropout"])
        assert config.augment is None
        assert config.init_sigma == 80
        assert (options.form, options.r1_gamma, options.r1_interval) == ("ns", 1e-4, 16)
        wanted = tuple(BACKBONES[name] for name in values["discriminator features"].split(" + "))
        assert options.backbones == official_backbones(teacher.network["kwargs"]["img_resolution"]) == wanted
        mult = re.findall(r"\d", values["architecture"].partition("cres ")[2])
        if mult:
            assert list(map(str, teacher.network["kwargs"]["channel_mult"])) == mult
    assert seen == reference.keys()
    assert len(rows) == 14
    assert {run.seed for run in rows} == {42, 43, 44}


def test_training_waits_for_the_downloads_of_its_discriminator(paper):
    fetched = lambda run: {name for name in training(paper, run).needs["downloads"] if name.startswith("backbone-")}
    lite = "backbone-efficientnet-lite0"
    assert fetched("cifar10-uncond-gdd-i") == {"backbone-vgg16-bn", lite}
    assert fetched("ffhq64-gdd") == {"backbone-deit-base-distilled", lite}
    assert fetched("cifar10-uncond-sida-a1") == set()
    assert GDDOptions().assets(64) == ["backbone-deit-base-distilled", "backbone-efficientnet-lite0"]
    assert GDDOptions(backbones=("digits",)).assets(8) == []


def test_the_work_of_a_method_is_that_of_the_page():
    assert_work_of(ROOT / "docs/methods.md")


def test_costs_are_those_of_the_methods_passes(paper):
    """In forward passes of the teacher's network for an image of the generator: docs/methods.md."""
    # GDD's two networks of features and their heads are beside the generator's four passes.
    config, network = resolved(paper, "cifar10-uncond-gdd")
    gdd = student_cost(config, network)
    assert gdd.operations == pytest.approx(4 * network_cost(network).forward)
    assert gdd.features == pytest.approx(1e9 * GDDOptions().feature_gflop(32))


#: FIDs that papers print of rows, by the table that has them beside ours.
QUOTED = {
    "gdd": {"cifar10-uncond-gdd-i": 1.54, "afhq64-gdd": 1.23, "ffhq64-gdd-i": 0.85, "imagenet64-gdd-i": 1.16},
}


@pytest.mark.parametrize("table", QUOTED)
def test_quoted_numbers_stand_beside_the_runs(table):
    rows, numbers = load_layout(ROOT / f"studies/papers/tables/{table}.yaml").rows, load_published()
    quoted = {row.run: numbers[row.published.replace("{metric}", "fid")].value for row in rows if row.published}
    assert {run: value for run, value in quoted.items() if "sida" not in run} == QUOTED[table]
