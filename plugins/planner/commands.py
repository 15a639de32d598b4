"""Verbs before a run: ``sida new``, ``sida plan`` and ``sida doctor``."""

import argparse

from sida.assets.registry import check_network
from sida.cli.main import Verb, add_integer, existing
from sida.config.settings import from_mapping
from sida.plugins.planner.doctor import examine
from sida.plugins.planner.new import StudyConfig, new_study
from sida.plugins.planner.plan import make_plan, show_detection, show_plan
from sida.workflow.commands.presets import preset_argument
from sida.workflow.preset.files import find_preset


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    preset_argument(parser)
    count = "number of GPUs, or of cores for a study without (default: 1 GPU, this machine's cores)"
    add_integer(parser, "--gpus", count, 1, 10**6)
    parser.add_argument(
        "--gpu", metavar="NAME", help="card, of config/plan.yaml (default: H200, for `device: cpu` CPU)"
    )
    parser.add_argument(
        "--detect",
        metavar="PERCENT",
        help="seeds that show a gap between two methods, such as 10%%, instead of the cost",
    )
    parser.add_argument("--verbose", action="store_true", help="name the left-out rows of other targets, too")


def _plan(args: argparse.Namespace) -> int:
    """Prints the plan."""
    if args.detect:
        print(show_detection([find_preset(args.preset)], args.detect))
        return 0
    plan = make_plan([find_preset(args.preset)], args.targets, args.gpu, args.gpus)
    print(show_plan(plan, args.verbose))
    return 0


PLAN = Verb(
    """examples:
  sida plan paper tables/table1.tex                   (on one H200)
  sida plan paper --gpus 8 --gpu H100 tables/table8.tex figures/figure3.pdf
  sida plan paper edm2-xs-sida                        (a row of the sheet: trained and measured)
  sida plan demo --detect 10%                          (how many training seeds show a gap of a tenth)

Operations are counted on the networks of the preset; nothing is downloaded or trained. The jobs are those
that Snakemake would run: finished targets cost nothing. Assumptions: config/plan.yaml.
""",
    _plan_arguments,
    _plan,
    intermixed=True,
)


def _doctor(args: argparse.Namespace) -> int:
    """Prints the findings; exit status 1 if a requirement is missing."""
    file = find_preset(args.preset)
    findings = examine([file], args.targets)
    print(f"preset {file}: {', '.join(args.targets) or 'the whole preset'}")
    for finding in findings:
        print(f"{finding.verdict:<7} {finding.subject}: {finding.text}")
        for item in finding.items:
            print(f"          {item}")
        if finding.remedy:
            print(f"          → {finding.remedy}")
    return int(any(finding.verdict == "missing" for finding in findings))


DOCTOR = Verb(
    """examples:
  sida doctor paper tables/table1.tex
  sida doctor studies/papers/released.yaml

Checks custom code that the preset names (it is not run before you allow it), GPU memory, disk, packages, data, assets
and LaTeX; downloads and trains nothing. Exit status 1 if a requirement is missing; notes are about things that are not
required.
""",
    preset_argument,
    _doctor,
    intermixed=True,
)


def _new_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("study", metavar="STUDY", help="folder to make; its name becomes the preset's")
    parser.add_argument("--data", required=True, type=existing("--data"), metavar="FOLDER|ZIP", help="your pictures")
    add_integer(parser, "--resolution", "height and width (default: the pictures')", 1, 8192)
    parser.add_argument("--channels", type=int, help="3: RGB, 1: grey (default: the pictures')")
    parser.add_argument("--labels", help="auto (default), folders or none: see `sida data prepare`")
    teacher = "teacher instead of a trained one: folder or hf://OWNER/NAME of diffusers, or a network of `sida convert`"
    parser.add_argument("--teacher", type=check_network, metavar="NETWORK", help=teacher)
    parser.add_argument("--gpu", metavar="NAME", help="card of config/plan.yaml that the study has to fit (RTX4090)")
    add_integer(parser, "--cores", "processor cores instead of a card (2)", 1, 10**4)
    parser.add_argument("--hours", type=float, help="hours until the table (default: 8, a night)")


def _new(args: argparse.Namespace) -> int:
    """Writes the folder."""
    settings = {k: v for k, v in vars(args).items() if k in StudyConfig.__dataclass_fields__ and v is not None}
    print("\n".join(new_study(from_mapping(StudyConfig, settings, "sida new:"))))
    return 0


NEW = Verb(
    """examples:
  sida new flowers --data pictures/ --resolution 64     crops and scales to flowers/data.zip
  sida new flowers --data flowers-32x32.zip             a zip of `sida data prepare` stays where it is
  sida new flowers --data pictures/ --resolution 32 --gpu H100 --hours 24
  sida new clothes --data fashion.zip --cores 2 --hours 0.5
  sida new mine --data pictures/ --teacher ddpm-flowers/     distills a pipeline of diffusers (docs/own-teacher.md)
  sida new tryout --data pictures/ --resolution 16 --hours 0.2    ends in minutes, to see every step
  cd flowers && sida run .

Width, lengths, micro-batches and measured images are the largest that fit card and hours by the costs of `sida plan`;
a line names the reductions (up to 16×16 on 2 cores, above on a card of 24 GB, unless you name others).
See docs/own-pictures.md.
""",
    _new_arguments,
    _new,
)
