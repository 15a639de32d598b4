"""Writes ``codemeta.json`` (CodeMeta 3.0) from ``pyproject.toml`` and ``CITATION.cff``.

python -m tools.write_codemeta
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PATH = ROOT / "codemeta.json"


def codemeta() -> dict[str, Any]:
    """Metadata of this software by CodeMeta's names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    address = {"codeRepository": about["repository-code"]} if "repository-code" in about else {}
    return {
        "@context": "https://w3id.org/codemeta/3.0",
        "@type": "SoftwareSourceCode",
        "name": project["name"],
        "description": project["description"],
        "version": about["version"],
        "license": f"https://spdx.org/licenses/{project['license']}",
        "author": [{"@type": "Organization", "name": author["name"]} for author in project["authors"]],
        "keywords": project["keywords"],
        "programmingLanguage": f"Python {project['requires-python']}",
        "operatingSystem": "Linux",
        "softwareRequirements": project["dependencies"],
        "referencePublication": [
            {"@type": "ScholarlyArticle", "name": re.sub("^Paper: ", "", name), "@id": url}
            for name, url in project["urls"].items()
        ],
        **address,
    }


def text() -> str:
    """Content of the file."""
    return json.dumps(codemeta(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
