"""``sida-eval barrier``: the losses on the line between a teacher's weights and its student's."""

from __future__ import annotations

import argparse

HELP = "Measure the line between a teacher's weights and its student's: denoising loss, FD in one step, barriers."
EXAMPLES = """examples:
  sida-eval barrier --spec results/miniature/specs/barriers/line-gdd.json --out barrier.json
  sida-eval barrier --spec '{"run": "x", "teacher": "teacher.safetensors", "student": "student.safetensors",
                             "dataset": {"name": "digits", "kind": "digits"}, "protocol": "digits"}' --out x.json

A preset's key `barriers` names the rows whose specs the workflow writes. docs/reference/statistics.md
says how barriers are computed.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--spec", required=True, metavar="JSON", help="teacher, student, protocol: JSON text or file")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Measures the line and prints the barriers."""
    from eval.commands._options import check_output
    from eval.measuring.barrier import measure_barrier
    from sida.config.mapping import load_spec

    check_output(args.out, "--out", ".json")
    found = measure_barrier(load_spec(args.spec), args.out)
    listed = ", ".join(f"{name} {value:+.3g}" for name, value in found["barriers"].items())
    print(f"{args.out}: barriers {listed}")
    return 0
