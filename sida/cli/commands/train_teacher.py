"""``sida train-teacher``: trains a diffusion teacher."""

from __future__ import annotations

import argparse

from sida.cli.commands._spec import arguments, in_processes, limit_library_threads, rank_0_output, read_settings, tell

__all__ = ["EXAMPLES", "HELP", "arguments", "run"]

HELP = "Train a diffusion teacher (EDM, EDM2 or a custom network)."
EXAMPLES = """examples:
  sida train-teacher --spec teacher.yaml --out results/my/teachers/digits
  sida train-teacher --spec teacher.yaml --out OUT --set lr=1e-3 --set network.kwargs.dropout=0.1
  sida train-teacher --out OUT --spec '{"name": "tiny", "dataset": {"name": "digits", "kind": "digits"},
      "network": {"class": "EDMPrecond", "kwargs": {"model_type": "SongUNet", "img_resolution": 8,
      "img_channels": 1, "label_dim": 10, "model_channels": 32, "channel_mult": [1, 1], "num_blocks": 1,
      "attn_resolutions": []}}, "total_kimg": 30, "batch_size": 128, "lr": 3e-3, "tick_kimg": 1}'

Keys of the spec: docs/settings.md, 'training'. Run the same command again to resume after an interruption; a
finished run only writes its files again.
"""


@rank_0_output()
def run(args: argparse.Namespace) -> int:
    """Trains the teacher and prints the path of the network."""
    if (status := in_processes(args)) is not None:
        return status
    from sida.config.recipe import TeacherConfig

    config, where = read_settings(args, TeacherConfig)
    limit_library_threads(config.threads)

    from sida.training.teacher import train_teacher

    tell(train_teacher(config, args.out, where=where, set_aside=args.set_aside))
    return 0
