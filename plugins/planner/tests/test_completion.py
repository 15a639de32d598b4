"""`sida completion`: verbs, options and files in a shell."""

import subprocess

import pytest

from tests.refused import command


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["sc"], "score"),
        (["score", "--lik"], "--like"),
        (["data", "pre"], "prepare"),
        (["info", "pict"], "pictures.zip"),
    ],
)
def test_a_shell_completes_verbs_options_and_files(tmp_path, words, wanted):
    (tmp_path / "pictures.zip").touch()
    script = command("completion", "bash")
    line = " ".join(["sida", *words])
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_sida sida {words[-1]} {['sida', *words][-2]}"
    program = f'{script}\n{ask}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    run = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert wanted in run.stdout.split()
