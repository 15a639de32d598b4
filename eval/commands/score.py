"""``sida-eval score``: measures images of any generator under a protocol."""

from __future__ import annotations

import argparse
import os

from sida.cli.arguments import existing, network_source, whole

HELP = "Score the images of any generator under a protocol: files, a network, or a Python function."
EXAMPLES = """examples:
  sida score mine:sample --like table1 --out row.json   (`sample(seeds)` of mine.py gives uint8 images)
  sida score my_samples/ --protocol cifar10
  sida score samples.npz --protocol imagenet64 --trials 3 --name "My model" --out score.json
  sida score digits.zip --protocol digits --num-samples 1000
  sida score cifar10-uncond-sida-a1 --like table1                  (an id of `sida assets list`)
  sida score results/demo/students/sida-a1.0 --like main           (the folder of a run or of `sida export`)
  sida score generator.pt --latent 128 --like table1               (TorchScript, a program: needs SIDA_ALLOW_CODE)
  sida score teacher.safetensors --sampler heun:18 --protocol digits --trials 1
  sida score a/ --against b.zip                    (two sets, as torch-fidelity; --protocol pair-clean: as clean-fid)
  sida table table1 --add row.json --plain --bib refs.bib          (then prints the row for a paper)
Images must be uint8 of the protocol's size: nothing is resized or rescaled. Ten trials of 50,000 images make a full
result; a smaller set is measured, and the result says so. --reference edm=FILE uses a local file instead of
fetching the published reference.
On two cores Inception takes about 0.05 s an image (0.1 s with --no-fast) and 1.3 GB: an hour or more for 50,000
images. A GPU takes minutes.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        type=_source,
        help="images, network (file, folder of a run, id or address), or module:function",
    )
    scored.add_argument(
        "--images", type=existing("--images", pictures=True), metavar="PATH", help="folder, .zip, .tar, .npz or .npy"
    )
    scored.add_argument(
        "--network",
        type=network_source,
        metavar="NET",
        help="network file (.safetensors), published .pkl, asset id, or address",
    )
    scored.add_argument("--function", type=_function, metavar="MODULE:NAME", help="Python function of a list of seeds")
    parser.add_argument(
        "--latent", metavar="SHAPE", help="latents of a TorchScript file, such as 128 or 3x32x32; needs a permission"
    )
    parser.add_argument("--sampler", metavar="TEXT", help="of --network, as for sida sample (default: one_step)")
    parser.add_argument("--protocol", metavar="NAME", help="name or YAML file of a protocol (default: that of --like)")
    parser.add_argument(
        "--against",
        type=existing("--against", pictures=True),
        metavar="PATH",
        help="images in the place of the protocol's references (default protocol: pair)",
    )
    parser.add_argument("--like", metavar="TABLE", help="a row for this table, with its protocol, columns and decimals")
    parser.add_argument(
        "--trials", type=whole("--trials", 1), metavar="T", help="disjoint trials (default: all that fit)"
    )
    parser.add_argument(
        "--num-samples", type=whole("--num-samples", 2), metavar="N", help="another n: the result is not comparable"
    )
    parser.add_argument("--name", help="label of the row (default: name of the path)")
    parser.add_argument("--family", help="group of the row in tables (default: One Step with --like, else none)")
    parser.add_argument("--nfe", type=whole("--nfe", 1), metavar="N", help="network evaluations per image, for tables")
    parser.add_argument("--dataset", metavar="JSON", help="data set for references made here (spec or file)")
    parser.add_argument("--reference", action="append", default=[], metavar="KEY=FILE", help="file of a reference")
    parser.add_argument(
        "--extractor-option", action="append", default=[], metavar="NAME.KEY=VALUE", help="e.g. inception.path=FILE"
    )
    parser.add_argument("--allow-duplicates", action="store_true", help="accept equal images")
    parser.add_argument(
        "--fast",
        action=argparse.BooleanOptionalAction,
        help="inception_cpu for inception: other last digits (default: on a processor, with downloaded files)",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda if there is one)")
    parser.add_argument("--batch-size", type=whole("--batch-size", 1), metavar="B", help="images per batch")
    parser.add_argument("--out", metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON per metric, with digests, and no text"
    )
    parser.add_argument("--latex", metavar="FILE", help="write the LaTeX row to a file (it is printed anyway)")
    parser.add_argument("--plain", action="store_true", help="LaTeX row without siunitx: $4.73 \\pm 0.16$")
    parser.add_argument(
        "--table",
        metavar="LAYOUT",
        help="columns, decimals and units of the LaTeX row: those of a table, e.g. table1 (default: main where the "
        "protocol has its metrics, else the protocol's)",
    )


def run(args: argparse.Namespace) -> int:
    """Scores the images and prints the result."""
    from sida.errors import UserError

    if not (args.protocol or args.like or args.against):
        raise UserError(
            "score", "name a table (--like table1) or a protocol (--protocol cifar10), or images (--against B)"
        )

    import json
    from pathlib import Path

    from eval.commands._options import check_output, extractor_options, pairs
    from eval.measuring.score import NetworkFile, chosen_protocol, names_network, score_images
    from eval.measuring.sources import ScriptedGenerator, is_torchscript
    from eval.results.exchange import exchanged
    from eval.tables.scores import latex_row, row_columns, table_protocol
    from sida.config.samplers import read_sampler
    from sida.config.settings import load_spec
    from sida.files.atomic import write_hashed_json, write_text
    from sida.sampling.job import open_device
    from sida.sampling.networks import network_file

    check_output(args.out, "--out")
    check_output(args.latex, "--latex")
    network = args.network or (args.source if args.source and names_network(args.source) else None)
    scripted = bool(network) and os.path.isfile(str(network)) and is_torchscript(str(network))
    if scripted and not args.latent:
        raise UserError(network, "a TorchScript file takes latents", "add --latent SHAPE, such as --latent 128")
    if args.latent and not scripted:
        raise UserError("--latent", "is for TorchScript files", "leave it out")
    if args.sampler and (scripted or not network):
        raise UserError("--sampler", "is for networks", "leave it out")
    table = args.table or args.like
    if args.against and (table or args.latex):
        raise UserError(
            "--against", "a comparison of two sets is no row of a table", "leave --like, --table and --latex out"
        )
    protocol = args.protocol or (table_protocol(args.like) if args.like else "pair")
    if not args.against:
        row_columns(chosen_protocol(protocol, args.num_samples, bool(args.fast)), table)
    images = args.source or args.images or args.function
    nfe, family = args.nfe, args.family
    label, device = args.name, open_device(args.device)
    if scripted:
        shape = [whole("--latent", 1)(part) for part in args.latent.split("x")]
        images, label = ScriptedGenerator(str(network), shape, device), label or Path(str(network)).stem
    elif network:
        images = NetworkFile(str(network_file(network)), read_sampler(args.sampler or "one_step", "--sampler"))
        nfe = nfe or images.sampler.nfe
    if args.like and family is None and (nfe or 1) == 1:
        family, nfe = "One Step", 1
    score = score_images(
        images,
        protocol,
        trials=args.trials,
        num_samples=args.num_samples,
        name=label,
        allow_duplicates=args.allow_duplicates,
        fast=args.fast,
        against=args.against,
        dataset=load_spec(args.dataset, "--dataset") if args.dataset else None,
        references=pairs(args.reference, "--reference"),
        extractors=extractor_options(args.extractor_option),
        device=device,
        batch_size=args.batch_size,
        family=family or "",
        nfe=nfe,
    )
    # Files first: an error while printing must not lose the measurement.
    if args.out:
        write_hashed_json(args.out, score.record())
    rows = [] if args.against else [latex_row(score, row_columns(score.protocol, table, score), args.plain)]
    if args.latex:
        write_text(args.latex, rows[0] + "\n")
    if args.json:
        print("\n".join(json.dumps(line) for line in exchanged(score.records)))
        return 0
    print("\n".join([*score.lines(), *rows, *filter(None, (args.out, args.latex))]))
    return 0


def _function(text: str) -> str:
    """Parses the name of a function."""
    from sida.config.settings import names_object
    from sida.errors import UserError

    if not names_object(text):
        dotted = "{0[0]}:{0[2]}".format(text.rpartition(".")) if "." in text else "mine:sample"
        raise UserError(text, f"a function is named with a colon, module:function, such as {dotted}")
    return text


def _source(text: str) -> str:
    """Parses a source; a wrong name ends before the heavy imports."""
    from sida.config.settings import names_object
    from sida.files.archives import refuse_picture

    if not names_object(text):
        packed = text.endswith((".npz", ".npy", ".zip", ".tar", ".gz", ".safetensors", ".pkl", ".pt", ".pth"))
        if "." in text and text.replace(".", "_").isidentifier() and not packed and not os.path.exists(text):
            return _function(text)
        network_source(text)
        refuse_picture(text)
    return text
