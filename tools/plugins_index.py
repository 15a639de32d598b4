"""Writes ``config/plugins.tsv``: the names that the plugins of this repository add to registries and to ``config``.

    python -m tools.plugins_index

Errors read it to say which plugin a missing name belongs to.
"""

from sida.config.registries import FOLDER, INDEX, plugins


def rows() -> list[tuple[str, str, str]]:
    """Registry or folder of ``config``, name, and plugin, sorted."""
    tables = [
        (plugin, registry, names) for plugin, registries in plugins().items() for registry, names in registries.items()
    ]
    files = [(path.parent.name, path.stem, path.parts[-4]) for path in FOLDER.glob("*/config/*/*")]
    return sorted([*((registry, name, plugin) for plugin, registry, names in tables for name in names), *files])


if __name__ == "__main__":
    lines = ["\t".join(row) + "\n" for row in [("registry", "name", "plugin"), *rows()]]
    INDEX.write_text("".join(lines), encoding="utf-8")
