"""Verbs that train: ``sida train-teacher`` and ``sida distill``.

Both trainings take a spec, overrides of single settings and the folder of the run.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sida.cli.main import Verb, flush_or_discard
from sida.config.lookup import our_object, typed_object
from sida.config.recipe import TeacherConfig
from sida.config.settings import from_mapping, load_spec
from sida.errors import UserError, say
from sida.files.text_files import parse_yaml
from sida.methods.registry import METHODS, DistillConfig
from sida.training.processes import rank_0_output

T = TypeVar("T")
#: Options that override single settings of a student: type, placeholder and help.
_OPTIONS: dict[str, tuple[Callable[[str], str], str, str]] = {
    "method": (typed_object, "METHOD", "name, or a custom module:object; overrides the spec's"),
    "teacher": (str, "PATH", "network of the teacher: file, folder, id or address; overrides the spec's"),
}


def _training_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of a training."""
    add = parser.add_argument
    add("--spec", required=True, metavar="JSON|FILE", help="settings: JSON text, or a JSON or YAML file")
    add("--out", required=True, metavar="DIR", help="folder of the run")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting; repeatable")
    unfinished = "start a new run although DIR holds an unfinished run with other settings"
    add("--set-aside", action="store_true", help=f"{unfinished} (kept; it resumes when given its settings again)")


def read_settings(args: argparse.Namespace, cls: type[T], options: Mapping[str, Any] | None = None) -> tuple[T, str]:
    """Reads the settings given by ``--spec``, ``--set`` and single options.

    Args:
        args: Parsed arguments with ``spec`` and ``set``.
        cls: Class of settings.
        options: Values of options by their key; None where an option is not given.

    Returns:
        The settings, and their source as named in errors.

    Raises:
        UserError: A setting is wrong; the message names the spec with everything that changes it.
    """
    spec, where = read_spec(args.spec, args.set)
    values = {key: value for key, value in (options or {}).items() if value is not None}
    if twice := [key for key in values if any(text.partition("=")[0] == key for text in args.set)]:
        raise UserError(f"--set {twice[0]}", f"is given beside --{twice[0]}", "give one of them")
    flags = [f" --set {text}" for text in args.set] + [f" --{key} {value}" for key, value in values.items()]
    return from_mapping(cls, spec | values, f"{where}{''.join(flags)}:" if flags else where), where


def read_spec(text: str, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Reads a spec and applies ``key=value`` overrides.

    Args:
        text: JSON text (starts with ``{``) or the path of a JSON or YAML file.
        overrides: ``key=value`` with dots for inner keys, e.g. ``network.kwargs.dropout=0.1``; values are YAML, so
            ``null``, ``true``, numbers, lists and texts mean what they look like.

    Returns:
        The spec, and its source as named in errors.

    Raises:
        UserError: The spec or an override cannot be read.
    """
    where = "--spec" if text.lstrip().startswith("{") else str(Path(text))
    spec = load_spec(text)
    for override in overrides:
        _apply(spec, override)
    return spec, where


def _apply(spec: dict[str, Any], override: str) -> None:
    """Applies one override to a spec, in place."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}", "must be key=value, e.g. --set lr=1e-4")
    try:
        value = parse_yaml(text, f"--set {key}")
    except UserError as error:
        raise UserError(error.where, error.fault, "quote the value") from None
    *outer, last = key.split(".")
    target: Any = spec
    for name in outer:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {override}", f"'{name}' is not a mapping and has no inner keys")
    target[last] = value


def limit_library_threads(threads: int) -> None:
    """Limits numpy, scipy and torch to the configured number of threads; call it before importing them.

    The libraries read these variables once. If two students on two cores each used both cores for an
    eigendecomposition, their threads would wait for each other for longer than the second thread saves.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


@rank_0_output()
def _train(cls: type[Any], training: str, args: argparse.Namespace) -> None:
    """Trains a network with settings of a class, and prints its path.

    Args:
        cls: Class of settings.
        training: ``module:function``, imported after the number of threads is set.
        args: Parsed arguments.
    """
    config, where = read_settings(args, cls, {key: getattr(args, key, None) for key in _OPTIONS})
    limit_library_threads(config.threads)
    say(str(our_object(training)(config, args.out, where=where, set_aside=args.set_aside)), sys.stdout)
    # The training is complete, also if nobody reads its path.
    flush_or_discard(sys.stdout)


_TEACHER_EXAMPLES = """examples:
  sida train-teacher --spec teacher.yaml --out results/my/teachers/digits
  sida train-teacher --spec teacher.yaml --out OUT --set lr=1e-3 --set network.kwargs.dropout=0.1
  sida train-teacher --out OUT --spec '{"name": "tiny", "dataset": {"name": "digits", "kind": "digits"},
      "network": {"class": "EDMPrecond", "kwargs": {"model_type": "SongUNet", "img_resolution": 8,
      "img_channels": 1, "label_dim": 10, "model_channels": 32, "channel_mult": [1, 1], "num_blocks": 1,
      "attn_resolutions": []}}, "total_kimg": 30, "batch_size": 128, "lr": 3e-3, "tick_kimg": 1}'

Keys of the spec: `sida settings training`. Run the same command again to resume after an interruption; a
finished run only writes its files again.
"""


TRAIN_TEACHER = Verb(
    _TEACHER_EXAMPLES,
    _training_arguments,
    functools.partial(_train, TeacherConfig, "sida.training.teacher:train_teacher"),
)

_DISTILL_EXAMPLES = """examples:
  sida distill --spec student.yaml --out results/my/students/sida
  sida distill --spec student.yaml --out OUT --method sid --teacher teacher/network.safetensors
  sida distill --spec student.yaml --out OUT --method sid2a --set init=sid/network.safetensors
  sida distill --spec meanflow.yaml --out OUT --method meanflow          (no teacher: the spec has the network)
  sida distill --out OUT --teacher teacher/network.safetensors --method sida --spec '{"name": "tiny",
      "dataset": {"name": "digits", "kind": "digits"}, "total_kimg": 40, "batch_size": 32, "lr": 5e-4,
      "lambda_adv": 10, "lambda_d": 5, "grad_clip_value": 1, "warmup_kimg": 1, "adversarial_kimg": 2,
      "ema_half_life_kimg": 5, "ema_rampup_ratio": 0.5, "dropout": 0, "tick_kimg": 1}'

methods:
METHODS
  module:object   a custom method (docs/add.md)

Keys of the spec: `sida settings recipe`; of one key with its official values: `sida settings KEY`. Defaults are the
official recipe of the method on the teacher's network family. Run the same command again to resume after an
interruption; a finished run only writes its files again.
""".replace("METHODS", "\n".join(f"  {method.name:<16}{method.about}" for method in METHODS.values()))


def _distill_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    _training_arguments(parser)
    for option, (kind, metavar, text) in _OPTIONS.items():
        parser.add_argument(f"--{option}", type=kind, metavar=metavar, help=text)


DISTILL = Verb(
    _DISTILL_EXAMPLES,
    _distill_arguments,
    functools.partial(_train, DistillConfig, "sida.methods.distillation:distill"),
)
