"""``sida distill``: distils a teacher into a one-step generator."""

from __future__ import annotations

import argparse

from sida.cli.commands import _spec
from sida.cli.commands._spec import rank_0_output
from sida.methods.registry import METHODS

HELP = f"Distil a teacher into a one-step generator ({', '.join(method.title for method in METHODS.values())})."
EXAMPLES = """examples:
  sida distill --spec student.yaml --out results/my/students/sida
  sida distill --spec student.yaml --out OUT --method sid --teacher teacher/network.safetensors
  sida distill --spec student.yaml --out OUT --method sid2a --init sid/network.safetensors --set lr=1e-4
  sida distill --out OUT --teacher teacher/network.safetensors --method sida --spec '{"name": "tiny",
      "dataset": {"name": "digits", "kind": "digits"}, "total_kimg": 40, "batch_size": 32, "lr": 5e-4,
      "lambda_adv": 10, "lambda_d": 5, "grad_clip_value": 1, "warmup_kimg": 1, "adversarial_kimg": 2,
      "ema_half_life_kimg": 5, "ema_rampup_ratio": 0.5, "dropout": 0, "tick_kimg": 1}'

methods:
METHODS
  module:object   a custom method (docs/add-a-method.md, 'A method of distillation')

Keys of the spec: docs/settings.md, 'recipe'. Defaults are the official recipe of the method on the teacher's network
family (docs/differences.md, 'Defaults of a recipe'). Run the same command again to resume after an interruption; a
finished run only writes its files again.
""".replace("METHODS", "\n".join(f"  {method.name:<16}{method.about}" for method in METHODS.values()))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _spec.arguments(parser)
    parser.add_argument("--method", metavar="METHOD", help="name, or a custom module:object; overrides the spec's")
    parser.add_argument("--teacher", metavar="PATH", help="network of the teacher; overrides the spec's")
    parser.add_argument("--guide", metavar="PATH", help="guiding network of the teacher (with guidance in the recipe)")
    parser.add_argument("--init", metavar="PATH", help="generator to start from (sid2a); overrides the spec's")


@rank_0_output()
def run(args: argparse.Namespace) -> int:
    """Distils the teacher and prints the path of the generator."""
    if (status := _spec.in_processes(args)) is not None:
        return status
    from sida.methods.resolve import DistillConfig

    options = {"method": args.method, "teacher": args.teacher, "init": args.init, "guide": args.guide}
    config, where = _spec.read_settings(args, DistillConfig, options)
    _spec.limit_library_threads(config.threads)

    from sida.methods.distillation import distill

    _spec.tell(distill(config, args.out, where=where, set_aside=args.set_aside))
    return 0
