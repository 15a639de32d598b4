"""The SiDA training step through ``torch.compile``: gain in steady state, and after how many images it has paid.

The bound holds for batch 32, the students' size on the digits. At batch 128 three quarters of the step are
convolutions, which go to the same library kernels either way; the figure is reported without a bound.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.training_step import FULL, TOLERANCE, Sides, compare
from sida.files.atomic import write_json
from sida.provenance import environment

BOUNDS = {32: 1.3, 128: None}


def main(out: Path) -> bool:
    """Compares baseline, suite and compiled suite at batch 32 and 128 (compilation takes minutes)."""
    rows, kept = [], True
    print(f"{'batch':>5}{'plain img/s':>13}{'suite':>8}{'compiled':>10}{'ratio':>7}{'compile s':>11}{'paid after':>16}")
    for batch, bound in BOUNDS.items():
        sides = Sides(("plain", "lean", "compiled"), batch)
        result = compare(sides, FULL, turns=9, count=max(2, 160 // batch))
        sides.close()
        rates, ratio = result["img_per_s"], result["ratios"]["compiled"]
        lost = result["warm_up_seconds"]["compiled"] - result["warm_up_seconds"]["lean"]
        gained = 1 / rates["lean"] - 1 / rates["compiled"]
        break_even = lost / gained if gained > 0 else None
        kept &= (bound is None or ratio >= bound) and result["loss_difference"] < TOLERANCE
        rows.append(
            {"batch": batch, "bound": bound, **result, "compile_seconds": lost, "break_even_images": break_even}
        )
        shown = "never" if break_even is None else f"{break_even:,.0f}"
        print(
            f"{batch:>5}{rates['plain']:>13.0f}{rates['lean']:>8.0f}{rates['compiled']:>10.0f}{ratio:>7.2f}"
            f"{lost:>11.0f}{shown:>16}",
            flush=True,
        )
    print("bound: 1.3 times the baseline at batch 32; images until paid are counted against the suite's eager step")
    write_json(out, {"rows": rows, "environment": environment()})
    return kept
