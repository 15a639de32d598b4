"""``sida export``: a run as a folder that other libraries load."""

from __future__ import annotations

import argparse

from sida.cli.arguments import existing

HELP = "Write a generator as a folder for the Hugging Face Hub: weights, model card, one-step diffusers pipeline."
EXAMPLES = """examples:
  sida export results/demo/students/sida-a1.0 --to hf sida-digits/
  sida export network.safetensors --to hf folder/ --license cc-by-nc-sa-4.0
  hf upload OWNER/NAME sida-digits/          (your own command: nothing is uploaded here)

The card has the measurements of this very file (by its hash) from measurements.csv of the run's preset.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("run", type=existing(), metavar="RUN", help="folder of a training, or a network file")
    parser.add_argument("--to", required=True, choices=("hf",), help="form of the folder")
    parser.add_argument("out", metavar="FOLDER", help="folder to make")
    parser.add_argument("--base-model", metavar="OWNER/NAME", help="the teacher on the Hub, for the card")
    parser.add_argument("--license", default="other", metavar="ID", help="licence as the Hub names it (default: other)")


def run(args: argparse.Namespace) -> int:
    """Writes the folder."""
    from workflow.archive.hub_folder import write_hub_folder

    for name in write_hub_folder(args.run, args.out, args.license, args.base_model):
        print(f"{args.out.rstrip('/')}/{name}")
    return 0
