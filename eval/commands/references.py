"""Verbs that run a feature network over images: ``sida reference`` and ``sida features``."""

from __future__ import annotations

import argparse

from eval.commands._options import extraction_arguments, extraction_settings
from sida.cli.main import Verb


def _reference_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    extraction_arguments(parser, sampled=True)
    parser.add_argument("--key", default="teacher", help="the protocol's reference, with --spec (default: teacher)")
    parser.add_argument("--keep-features", action="store_true", help="for precision, recall and kernel distance")
    parser.add_argument("--ddof", type=int, choices=(0, 1), default=1, help="covariance divisor N - ddof (default: 1)")


def _reference(args: argparse.Namespace) -> int:
    """Measures the images and writes the reference."""
    from eval.measuring.extract import write_reference, write_teacher_reference
    from sida.config.settings import load_spec
    from sida.errors import UserError

    if args.spec is not None:
        own = write_teacher_reference(args.out, load_spec(args.spec), args.key)
        print(f"{args.out}: {own.count:,} {own.name}, extractors {', '.join(own.extractors)}")
        return 0
    if args.extractor is None:
        raise UserError("--extractor", "is missing", "name the feature network")
    name, statistics = write_reference(**extraction_settings(args), keep_features=args.keep_features, ddof=args.ddof)
    print(f"{args.out}: {statistics.count:,} images of {name}, {statistics.num_features} features each")
    return 0


REFERENCE = Verb(
    "Measure a data set, real images or samples of a teacher once, as the reference of later measurements.",
    """examples:
  sida reference --dataset '{"name": "cifar10", "kind": "zip", "path": "cifar10.zip"}' --extractor inception \\
      --out cifar10-inception.safetensors
  sida reference --images real/ --extractor dinov2 --keep-features --out real.safetensors
  sida reference --spec '{"network": "teacher.safetensors", "protocol": "mine.yaml", "device": "cuda"}' \\
      --key teacher --out teacher-samples.safetensors
Then: sida score ... --reference edm=cifar10-inception.safetensors --reference teacher=teacher-samples.safetensors
""",
    _reference_arguments,
    _reference,
)


def _features_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    extraction_arguments(parser)


def _features(args: argparse.Namespace) -> int:
    """Extracts the features and writes them."""
    from eval.measuring.extract import write_features

    name, shape = write_features(**extraction_settings(args))
    print(f"{args.out}: {shape[0]:,} × {shape[1]} features of {name}")
    return 0


FEATURES = Verb(
    "Extract features of images or of a data set into a file (safetensors: features, and logits if there are any).",
    """examples:
  sida features --images samples.zip --extractor inception --out features.safetensors
  sida features --dataset '{"name": "digits", "kind": "digits"}' --extractor digits --out digits.safetensors
""",
    _features_arguments,
    _features,
)
