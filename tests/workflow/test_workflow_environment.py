"""The environment files agree with each other and name no address."""

from __future__ import annotations

import re

import yaml

from sida.resources import ROOT


def locked() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, re.M))


def test_conda_environment_has_the_locked_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pins = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    versions = locked()
    for pin in pins:
        name, version = pin.split("==")
        assert versions[name] == version


def test_every_locked_package_has_hashes_and_no_address():
    for name in ("requirements.lock", "requirements-uv.lock"):
        text = (ROOT / name).read_text()
        entries = re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.M)
        packages = [entry for entry in entries if re.match(r"[a-zA-Z0-9]", entry)]
        assert packages
        assert all("--hash=sha256:" in entry for entry in packages)
        assert "://" not in text
        assert "index-url" not in text
