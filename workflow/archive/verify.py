"""Checks a results folder, also one that someone else sent: nothing in it is executed, trusted or changed."""

from __future__ import annotations

from pathlib import Path

from sida.errors import UserError
from sida.files.atomic import sha256_file
from sida.progress import Progress
from workflow.archive.files import UNLISTED, check_manifest, check_own_hash, list_files
from workflow.archive.numbers import check_numbers
from workflow.archive.parents import Parents
from workflow.archive.report import Report


def verify(folder: str | Path) -> Report:
    """Compares every file of a results folder with its own hash and the manifest, parents, and numbers.

    Args:
        folder: ``results/<preset>``.

    Raises:
        UserError: No such folder.
    """
    report = Report(Path(folder))
    if not report.folder.is_dir():
        raise UserError(f"{folder}: no such results folder; name one, for example results/demo")
    sizes = list_files(report)
    progress = Progress(f"verify {report.folder.name}", sum(sizes.values()) / 1e6, "MB")
    hashes: dict[str, str] = {}
    own: set[str] = set()
    done = 0
    for name, size in sizes.items():
        path = report.folder / name
        with report.checking(name):
            hashes[name] = sha256_file(path)
            if check_own_hash(path, name):
                own.add(name)
                report.counts["files as the hash in them says"] += 1
        done += size
        progress.update(done / 1e6)
    listed = check_manifest(report, hashes)
    faulty = {fault.split(": ")[0] for fault in report.faults}
    for name in hashes:
        if name not in own | listed | faulty and not UNLISTED.fullmatch(name):
            report.remark(name, "no hash: written by hand or by another program, and listed nowhere")
    Parents(report, hashes).check()
    check_numbers(report, hashes)
    return report
