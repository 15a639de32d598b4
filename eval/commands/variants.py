"""``sida-eval variants``: difference of faster feature networks from the published one."""

from __future__ import annotations

import argparse

from sida.cli.arguments import existing, whole

HELP = "Compare variants of a feature network on your images: difference as a share of the spread over trials."
EXAMPLES = """examples:
  sida-eval variants --images samples.zip --protocol imagenet512 --extractors dinov2 dinov2_fp16 --device cuda
  sida-eval variants --images samples/ --protocol cifar10 --extractors inception inception_tf32 --num-samples 10000
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--images",
        required=True,
        type=existing("--images", pictures=True),
        metavar="PATH",
        help="folder, .zip, .tar, .npz or .npy",
    )
    parser.add_argument("--protocol", required=True, metavar="NAME", help="name or YAML file of a protocol")
    parser.add_argument(
        "--extractors", required=True, nargs="+", metavar="NAME", help="the protocol's network, then its variants"
    )
    parser.add_argument(
        "--trials", type=whole("--trials", 1), metavar="T", help="disjoint trials (default: all that fit)"
    )
    parser.add_argument(
        "--num-samples", type=whole("--num-samples", 2), metavar="N", help="images of a trial (default: the protocol's)"
    )
    parser.add_argument("--dataset", metavar="JSON", help="data set for references made here (spec or file)")
    parser.add_argument("--reference", action="append", default=[], metavar="KEY=FILE", help="file of a reference")
    parser.add_argument("--extractor-option", action="append", default=[], metavar="NAME.KEY=VALUE")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--out", metavar="FILE", help="write the table as JSON, too")


def run(args: argparse.Namespace) -> int:
    """Measures and prints the table."""
    from eval.commands._options import check_extractors, check_output, extractor_options, pairs
    from eval.measuring.score import compare_variants
    from sida.config.settings import load_spec
    from sida.files.atomic import write_json

    check_output(args.out, "--out")
    check_extractors(extractor_options(args.extractor_option), args.extractors)
    rows = compare_variants(
        args.images,
        args.protocol,
        args.extractors,
        args.trials,
        args.num_samples,
        extractor_options(args.extractor_option),
        dataset=load_spec(args.dataset, "--dataset") if args.dataset else None,
        references=pairs(args.reference, "--reference"),
        device=args.device,
    )
    print("| metric | feature network | mean | difference | share of the spread over trials |")
    print("|---|---|---:|---:|---:|")
    for row in rows:
        share = "–" if row.share is None else f"{row.share:.1%}"
        print(f"| `{row.metric}` | `{row.extractor}` | {row.mean:.5g} | {row.difference:+.2g} | {share} |")
    if args.out:
        write_json(args.out, [row._asdict() for row in rows])
    return 0
