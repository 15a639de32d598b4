"""Output of the verbs that train an embedded feature network again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def compare_and_write(
    state: dict[str, torch.Tensor], metadata: Mapping[str, Any], committed: Path, out: str | None
) -> None:
    """Prints whether trained weights are bit-equal to the committed ones, and writes them to ``out``.

    Args:
        state: Trained weights.
        metadata: Metadata of the file.
        committed: File of the network in the package; missing before the network is first made.
        out: File to write; None writes nothing.
    """
    from eval.features.digits import read_weights, weights_digest
    from sida.files.tensors import write_tensors

    digest = weights_digest(state)
    if committed.is_file():
        same = digest == weights_digest(read_weights(committed)[0])
        print(f"weights {digest[:12]}: {'equal to' if same else 'not bit-equal to'} the committed network")
    if out:
        write_tensors(out, state, metadata)
        print(out)
