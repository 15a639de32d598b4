"""The verbs ``score``, ``table`` and ``reference``: a generator's numbers, and tables with them."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from typing import TYPE_CHECKING

from sida.assets.registry import SCORED_ENDS, check_network
from sida.cli.main import Once, Verb, add_integer, existing, refuse_lost
from sida.config.lookup import TRACE, typed_object
from sida.config.named_files import find_file
from sida.config.settings import load_spec, names_object
from sida.errors import UserError
from sida.eval.commands._options import extractor_options, output, shared
from sida.eval.commands.score_options import ScoreOptions
from sida.eval.results.bibliography import SUITE, bibliography
from sida.eval.results.exchange import exchanged
from sida.eval.tables.build import make_table, table_paths, write_table
from sida.eval.tables.latex import cited_keys, to_latex
from sida.eval.tables.scores import latex_row, row_columns, unfitting
from sida.files.atomic import write_hashed_json, write_text

if TYPE_CHECKING:
    from sida.eval.measuring.score import Score


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        type=_source,
        help="images, network (file, folder of a run, id or address), or module:function",
    )
    # clean-fid's order of words.
    add("second", nargs="?", metavar="", help=argparse.SUPPRESS)
    add("--latent", metavar="SHAPE", help="latents of a .pt2 or TorchScript file, such as 128 or 3x32x32")
    add("--sampler", metavar="TEXT", help="of a network, as for sida sample (default: one_step)")
    add("--protocol", metavar="NAME", help="name or YAML file of a protocol (default: the table's)")
    add(
        "--against",
        action=Once,
        type=existing("--against"),
        metavar="PATH",
        help="images that replace the protocol's references (default protocol: pair)",
    )
    add("--like", metavar="TABLE", help="a row for this table, with its protocol, columns and decimals")
    add_integer(parser, "--trials", "disjoint trials (default: all that fit)", 1, metavar="T")
    groups = "meaning of folders, where several trials are taken"
    add("--groups", choices=["trials", "classes"], help=groups)
    add("--labels", choices=["auto", "none"], help="none: leave classes of images in files out (default: auto)")
    add_integer(parser, "--num-samples", "images of a trial (with --against: default as many as there)", 2)
    add("--dataset", metavar="JSON", help="data set for references made here (spec or file)")
    add("--reference", action="append", default=[], metavar="KEY=FILE", help="file of a reference")
    shared(parser, "--extractor-option")
    add("--name", help="label of the row (default: name of the path)")
    add("--family", help="group of the row in tables (default: One Step with --like and NFE 1, else none)")
    nfe = "network evaluations per image, for tables (default: the network file's; with --like and no --family: 1)"
    add_integer(parser, "--nfe", nfe, 1)
    add(
        "--saw",
        metavar="WORDS",
        help="networks that the generator was exposed to, e.g. 'loss:inception', or none (docs/score.md)",
    )
    add("--device", help="cpu, cuda or cuda:1 (default: cuda if there is one)")
    add_integer(parser, "--batch-size", "images per batch", 1, metavar="B")
    add("--out", type=output("--out"), metavar="FILE", help="write everything as JSON")
    add("--json", action="store_true", help="print one line of JSON per metric, with digests, and no text")
    add("--origin", metavar="TEXT", help="who measured, for --json: NAME, ADDRESS")
    add("--verbose", action="store_true", help="show the whole trace where a function fails")
    add("--latex", type=output("--latex"), metavar="FILE", help="write the LaTeX row to a file, too")


def _score(args: argparse.Namespace) -> int:
    """Scores the images and prints the result."""
    if second := vars(args).pop("second"):
        raise UserError(second, "one set of images is scored at a time", f"name the other one --against {second}")
    options = ScoreOptions(**vars(args))
    if options.verbose:
        os.environ[TRACE] = "1"

    from sida.eval.measuring.score import score_images
    from sida.eval.measuring.score_plan import TooFewError

    fits = options.table_check()
    try:
        score = score_images(options.images, options.protocol_name, fits=fits, **options.settings())
    except TooFewError as error:
        if options.like and error.fits >= 2:
            error.remedy = f"{error.more}, or without the table: {options.own_number(error.fits)}"
        raise
    _show(score, options)
    score.forget_trials()
    return 0


def _show(score: Score, options: ScoreOptions) -> None:
    """Writes the files, and prints the numbers and the row."""
    rows: list[str] = []
    try:
        # Files first: an error while printing must not lose the measurement.
        if options.out:
            write_hashed_json(options.out, score.record())
        if not options.against:
            rows = [latex_row(score, row_columns(score.protocol, options.like, score.identity))]
        if options.latex:
            write_text(options.latex, rows[0] + "\n")
    finally:
        # Nor must an error of a file or row lose the numbers.
        if options.json:
            origin = {} if options.origin is None else {"origin": options.origin}
            print("\n".join(json.dumps({**line, **origin}) for line in exchanged(score.records)))
        else:
            notes = [f"  note: {note}" for note in filter(None, [*unfitting(score, options.like), options.assumption])]
            print("\n".join([*score.lines(), *notes]))
    # With --against there is no row, and ScoreOptions refuses --latex.
    for line in () if options.json else [*rows, *filter(None, (options.out, options.latex))]:
        print(line)
    sys.stdout.flush()


def _source(text: str) -> str:
    """Parses a source, and refuses a wrong name before the heavy imports."""
    if not names_object(text):
        is_image_file = text.endswith(SCORED_ENDS)
        if "." in text and text.replace(".", "_").isidentifier() and not is_image_file and not os.path.exists(text):
            module, _, name = text.rpartition(".")
            raise UserError(text, f"a function is named with a colon, module:function, such as {module}:{name}")
        check_network(text)
    return typed_object(text)


SCORE = Verb(
    """examples:
  sida score mine:sample --like table1 --out row.json   (`sample(seeds)` of mine.py gives uint8 images)
  sida score my_samples/ --protocol cifar10
  sida score samples.npz --protocol imagenet64 --trials 3 --name "My model" --out score.json
  sida score digits.zip --protocol digits --num-samples 1000
  sida score cifar10-uncond-sida-a1 --like table1                  (an id of `sida assets list`)
  sida score results/demo/students/sida-a1.0 --like main           (the folder of a run or of `sida export`)
  sida score generator.pt2 --latent 128 --like table1              (torch.export, a program: needs SIDA_ALLOW_CODE)
  sida score teacher.safetensors --sampler heun:18 --protocol digits --trials 1
  sida score a/ --against b.zip                    (two sets, as torch-fidelity; --protocol pair-clean: as clean-fid)
  sida table table1 --add row.json --bib refs.bib                  (then prints the table with that row)
Images must be uint8 of the protocol's size: nothing is resized or rescaled. Ten trials of 50,000 images make a full
result; a smaller set is measured, and the result says so. --reference edm=FILE uses a local file instead of
fetching the published reference.
On two cores Inception takes about 0.05 s an image and 1.3 GB: an hour or more for 50,000
images. A GPU takes minutes.
""",
    _score_arguments,
    _score,
)


def _table_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("table", metavar="TABLE", help="layout of the table: a name, or a file")
    shared(parser, "--measurements", "--runs", "--results")
    add("--out", metavar="FILE.tex", help="written with .csv, .md and .html beside it (default: print the LaTeX)")
    add("--bib", type=output("--bib"), metavar="FILE.bib", help="cite by keys in labels, and write their entries")
    add("--mode", choices=["paper", "audit", "measured"], help="overrides the layout's mode")
    add("--spec", metavar="JSON", help="retraining, and settings that table 8 prints: JSON text or a file")
    add(
        "--add",
        action="append",
        default=[],
        type=existing("--add"),
        metavar="FILE",
        help="add rows: sida score --out, other groups' lines of --json (.jsonl), or a record of Every Eval Ever",
    )


def _table(args: argparse.Namespace) -> int:
    """Builds the table; writes or prints it."""
    paths = table_paths(args.out) if args.out else []
    for path in paths:
        output("--out")(str(path))
    refuse_lost(vars(args), *paths, *filter(None, [args.bib]))
    table = make_table(
        args.table,
        args.measurements,
        find_file("runs", args.runs, where="--runs") if args.runs else None,
        mode=args.mode,
        spec=load_spec(args.spec) if args.spec else None,
        results=args.results,
        scores=args.add,
    )
    latex = functools.partial(to_latex, cite=bool(args.bib))
    if args.bib:
        write_text(args.bib, bibliography([SUITE, *cited_keys(table)]))
    if args.out:
        write_table(table, args.out, latex)
        print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])})")
    else:
        print(latex(table), end="")
    return 0


TABLE = Verb(
    """examples:
  sida table config/tables/main.yaml --measurements results/demo/measurements.csv \\
      --runs studies/demo/runs.tsv --out results/demo/tables/main.tex
  sida table table1 --out table1.tex             (as printed in the paper, and as sida run published tables/table1.tex)
  sida table table1 --mode audit --measurements results/released/measurements.csv \\
      --runs studies/papers/runs/released.tsv --out table1.tex                  (published, measured and Δ in lines)
  sida table table1 --add score.json --out table1.tex                              (adds a row for your images)
  sida table main --measurements collected.csv --add theirs.jsonl  (rows of other groups, with their origin)
  sida table table1 --add record.json   (Every Eval Ever: another tool's numbers are printed ones, never ranked)
  sida table table1 --add score.json --bib refs.bib                  (with \\cite keys, and their entries)
""",
    _table_arguments,
    _table,
)


def _reference_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", metavar="JSON", help="data-set spec or file")
    images = existing("--images")
    source.add_argument("--images", action=Once, type=images, metavar="PATH", help="folder, .zip, .tar, .npz or .npy")
    text = "feature network, or module:class"
    parser.add_argument("--extractor", action=Once, required=True, type=typed_object, help=text)
    shared(parser, "--extractor-option")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    out = output("--out", ".safetensors")
    parser.add_argument("--out", required=True, type=out, metavar="FILE", help="safetensors file to write")
    parser.add_argument("--keep-features", action="store_true", help="for precision, recall and kernel distance")


def _reference(args: argparse.Namespace) -> int:
    """Measures the images and writes the reference."""
    from sida.eval.measuring.references import write_reference

    names = ("out", "extractor", "dataset", "images", "keep_features", "device")
    options = extractor_options(args.extractor_option, [args.extractor]).get(args.extractor)
    own = write_reference(**{name: getattr(args, name) for name in names}, options=options)
    (statistics,) = own.statistics.values()
    print(f"{args.out}: {statistics.count:,} images of {own.name}, {statistics.num_features} features each")
    for remark in own.remarks:
        print(f"  note: {remark}")
    return 0


REFERENCE = Verb(
    """examples:
  sida reference --dataset '{"name": "cifar10", "kind": "zip", "path": "cifar10.zip"}' --extractor inception \\
      --out cifar10-inception.safetensors
  sida reference --images real/ --extractor dinov2 --keep-features --out real.safetensors
Then: sida score ... --reference edm=cifar10-inception.safetensors
""",
    _reference_arguments,
    _reference,
)
