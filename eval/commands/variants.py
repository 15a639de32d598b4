"""``sida-eval variants``: difference of faster feature networks from the published one."""

from __future__ import annotations

import argparse

from eval.commands._options import extractor_options, output, scoring_settings, shared

HELP = "Compare variants of a feature network on your images: difference as a share of the spread over trials."
EXAMPLES = """examples:
  sida-eval variants --images samples.zip --protocol imagenet512 --extractors dinov2 dinov2_fp16 --device cuda
  sida-eval variants --images samples/ --protocol cifar10 --extractors inception inception_tf32 --num-samples 10000
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    shared(parser, "--images", required=["--images"])
    add("--protocol", required=True, metavar="NAME", help="name or YAML file of a protocol")
    add("--extractors", required=True, nargs="+", metavar="NAME", help="the protocol's network, then its variants")
    shared(parser, "--trials", "--num-samples", "--dataset", "--reference", "--extractor-option", "--device")
    add("--out", type=output("--out"), metavar="FILE", help="write the table as JSON, too")


def run(args: argparse.Namespace) -> int:
    """Measures and prints the table."""
    from eval.measuring.score import compare_variants
    from sida.files.atomic import write_json

    options = extractor_options(args.extractor_option, args.extractors)
    settings = scoring_settings(args) | {"extractor_options": options, "device": args.device}
    rows = compare_variants(args.images, args.protocol, args.extractors, **settings)
    print("| metric | feature network | mean | difference | share of the spread over trials |")
    print("|---|---|---:|---:|---:|")
    for row in rows:
        share = "–" if row.share is None else f"{row.share:.1%}"
        print(f"| `{row.metric}` | `{row.extractor}` | {row.mean:.5g} | {row.difference:+.2g} | {share} |")
    if args.out:
        write_json(args.out, [row._asdict() for row in rows])
    return 0
