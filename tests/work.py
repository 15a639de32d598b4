"""Column `work` of a page of methods, which is compared with the passes of their steps."""

import re
from pathlib import Path

from sida.methods import METHODS


def assert_work_of(page: Path) -> None:
    """Compares the section Cost of a page, where an encoder is half a network."""
    lines = page.read_text().split("## Cost")[1].split("## ")[0].splitlines()
    for names, _, steps, _, work in (line.strip("| ").split(" | ") for line in lines if line.startswith("| `")):
        for name in re.findall(r"`(.+?)`", names):
            if not (number := re.match(r"(\d+)(½?)$", work)):
                continue
            psi_steps, passes = METHODS[name].work(METHODS[name].options())
            of_psi = psi_steps * (passes.fake_score + passes.fake_score_encoder / 2)
            assert of_psi + passes.generator + passes.generator_encoder / 2 == int(number[1]) + bool(number[2]) / 2
            assert (str(psi_steps) if psi_steps else "–") == steps, name
