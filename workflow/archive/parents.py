"""Compares the recorded parents of artefacts with the files in the folder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from eval.results.analyses import read_analysis
from eval.results.measurements import read_measurement
from sida.files.atomic import read_hashed_json, sha256_json
from sida.files.tensors import read_record
from workflow.archive.files import Report

_NETWORK = "network.safetensors"


class Parents:
    """Compares hashes of a folder's networks with the hashes that artefacts record for their parents.

    Args:
        report: Report for the faults.
        hashes: SHA-256 of each file of the folder, by path.
    """

    def __init__(self, report: Report, hashes: Mapping[str, str]) -> None:
        self.report, self.hashes = report, hashes
        self.known = {digest for name, digest in hashes.items() if name.endswith(".safetensors")}

    def check(self) -> None:
        """Compares the parents of every student, trial and analysis."""
        for name in self.hashes:
            parts = PurePosixPath(name).parts
            if parts[0] in ("students", "teachers") and parts[2:] == (_NETWORK,):
                with self.report.checking(name):
                    self._network(name, f"specs/{parts[0]}/{parts[1]}.json")
            if parts[0] == "measurements" and len(parts) == 3 and name.endswith(".json"):
                with self.report.checking(name):
                    self._trial(name, f"specs/measurements/{parts[1]}.json")
            if parts[0] == "analyses" and name.endswith(".json"):
                with self.report.checking(name):
                    self._analysis(name, f"specs/{name}")

    def _analysis(self, name: str, spec: str) -> None:
        hashes = read_analysis(self.report.folder / name).get("inputs") or {}
        for role in (role for role in ("network", "teacher") if role in hashes):
            self._compare(name, role, hashes[role], self._asked(spec, role))

    def _network(self, name: str, spec: str) -> None:
        parents = read_record(self.report.folder / name).get("parents") or {}
        for role, digest in parents.items():
            if digest is not None:
                self._compare(name, role, digest, self._asked(spec, role))

    def _trial(self, name: str, spec: str) -> None:
        record = read_measurement(self.report.folder / name)
        if record.get("network_sha256") is not None:
            self._compare(name, "network", record["network_sha256"], self._asked(spec, "network"))
        protocol = record["protocol"]
        # Records of earlier versions name a digest of the whole protocol.
        if "sha256" in protocol and sha256_json(protocol.get("fields")) != protocol["sha256"]:
            self.report.fault(name, "its protocol does not have the digest that it names; measure this trial again")

    def _asked(self, spec: str, role: str) -> str | None:
        """The file in this folder that a spec names, by the end of the path."""
        if spec not in self.hashes:
            return None
        asked: Any = read_hashed_json(self.report.folder / spec).get(role)
        parts = PurePosixPath(asked).parts if isinstance(asked, str) else ()
        end = "/".join(parts[-3:])
        # A missing file is outside this folder, unless the path leads through the preset's folder.
        return end if end in self.hashes or parts[:-3] == ("results", self.preset) else None

    @functools.cached_property
    def preset(self) -> str:
        """Name of the preset, even if the folder was renamed."""
        spec = "specs/preset.json"
        named = read_hashed_json(self.report.folder / spec).get("preset") if spec in self.hashes else None
        return str(named or self.report.folder.resolve().name)

    def _compare(self, name: str, role: str, digest: str, asked: str | None) -> None:
        if asked is not None and asked not in self.hashes:
            self.report.fault(name, f"was made from {asked}, which is missing; run the workflow again")
        elif asked is not None and self.hashes[asked] != digest:
            self.report.fault(name, f"was made from another {role} than {asked} is now; make it again")
        elif digest in self.known:
            self.report.counts["parents that are here"] += 1
        else:
            self.report.remark(name, f"its {role} ({digest[:12]}) is not in this folder: not compared")
