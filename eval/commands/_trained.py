"""What the verbs that train an embedded feature network again have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def compare_and_write(
    state: dict[str, torch.Tensor], metadata: Mapping[str, Any], committed: Path, out: str | None
) -> None:
    """Says whether trained weights equal the committed ones, bit for bit, and writes them where asked to.

    Args:
        state: Weights.
        metadata: Of the file.
        committed: The network that is part of the package; not there before it is made for the first time.
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
