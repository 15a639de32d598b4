"""The verb ``sweep``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sida.assets.registry import check_network
from sida.cli.main import Verb, add_integer, check_output_paths, existing
from sida.config.families import NULL_LABEL
from sida.errors import UserError
from sida.eval.commands._options import output
from sida.eval.commands.score_options import ScoreOptions
from sida.files.atomic import write_hashed_json
from sida.plugins.sweep.grid import make_averages, read_grid


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments, which are named as those of ``sida score``, ``sample`` and ``average``."""
    add = parser.add_argument
    networks = "network, as for score; several: each is a candidate, or with --over std the stored averages of one run"
    add("sources", nargs="+", type=check_network, metavar="NETWORK", help=networks)
    axis = "values of a setting of the sampler, such as guidance=1,1.2,1.4, or widths of averages, std=0.05,0.1"
    add("--over", action="append", default=[], metavar="KEY=VALUES", help=axis)
    add("--protocol", required=True, metavar="NAME", help="name or YAML file of a protocol")
    add("--out", required=True, metavar="FOLDER", help="folder of measurements and of score.json, for sida table --add")
    add("--sampler", default="one_step", metavar="TEXT", help="as for sida sample (default: one_step)")
    add("--gnet", metavar="FILE", help="guiding network, or null: the network itself, unlabelled")
    add("--vae", type=existing("--vae"), metavar="DIR", help="decoder of latent networks")
    add("--metric", metavar="KEY", help="Fréchet distance of the protocol (default: that of its trainings)")
    add_integer(parser, "--search-samples", "images of a candidate in the search (default: 15%% of a trial's)", 2)
    add_integer(parser, "--num-samples", "images of a trial of the full score (default: the protocol's)", 2)
    add("--dataset", metavar="JSON", help="data set for references made here (spec or file)")
    add("--name", help="label of the row (default: name of the path)")
    add("--device", help="cpu, cuda or cuda:1 (default: cuda if there is one)")


def _run(args: argparse.Namespace) -> int:
    """Sweeps, prints the result and writes it."""
    if args.gnet not in (None, NULL_LABEL):
        check_network(args.gnet)
    check_output_paths(vars(args))
    result = Path(args.out) / "score.json"
    output("--out")(str(result))
    grid = read_grid(args.sources, args.over, args.sampler)

    from sida.eval.measuring.score_plan import NetworkFile
    from sida.plugins.sweep.sweep import run_sweep
    from sida.sampling.job import guide_file

    guide, over_guidance = guide_file(args.gnet), any(text.startswith("guidance=") for text in args.over)
    fields = {name: value for name, value in vars(args).items() if name in ScoreOptions.__dataclass_fields__}
    candidates = []
    for candidate in make_averages(grid, args.sources, Path(args.out) / "averages"):
        options = ScoreOptions(**{**fields, "source": candidate.source, "sampler": candidate.sampler, "out": None})
        network = options.images
        if not isinstance(network, NetworkFile):
            raise UserError(candidate.source, "is not a network file", "a sweep is over the settings of its sampler")
        # A strength of 1 needs no guiding network, and a sampler refuses what has no effect.
        guides = guide is not None and (network.sampler.guidance != 1 or not over_guidance)
        place = network._replace(guide=str(guide) if guides else None, vae=args.vae)
        candidates.append((candidate.name, place, options.settings()))
    folder, searched = Path(args.out) / "search", {"metric": args.metric, "search_samples": args.search_samples}
    sweep = run_sweep(candidates, args.protocol, folder, **searched)
    write_hashed_json(result, sweep.record())
    print("\n".join([*sweep.lines(), str(result)]))
    sweep.score.forget_trials()
    return 0


SWEEP = Verb(
    """examples:
  sida sweep teacher.safetensors --sampler heun:18 --over guidance=1,1.2,1.4,1.7,2 --gnet null --protocol digits \\
      --out sweep                                       (guidance by the null label)
  sida sweep snapshots/*.safetensors --over std=0.05,0.1,0.15 --over guidance=1,1.4 --gnet null --sampler heun:18 \\
      --protocol digits --out sweep                     (widths of averages that `sida average` would make)
  sida sweep a.safetensors b.safetensors --protocol digits --out sweep          (snapshots of a generator)
  sida table main --add sweep/score.json                (the best one in a table)

Every candidate draws the same image seeds, on 15 % of a trial's images. The best one is then scored in full on the
protocol's seeds, none of which the search has. The same command resumes after an interruption.
""",
    _arguments,
    _run,
    intermixed=True,
)
