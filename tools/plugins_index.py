"""Writes ``config/plugins.tsv``: the names that the plugins of this repository add to registries.

    python -m tools.plugins_index

Errors read it to say which plugin a missing name belongs to.
"""

from sida.config.registries import INDEX, plugins


def rows() -> list[tuple[str, str, str]]:
    """Registry, name and plugin, sorted."""
    tables = [
        (plugin, registry, names) for plugin, registries in plugins().items() for registry, names in registries.items()
    ]
    return sorted((registry, name, plugin) for plugin, registry, names in tables for name in names)


if __name__ == "__main__":
    lines = ["\t".join(row) + "\n" for row in [("registry", "name", "plugin"), *rows()]]
    INDEX.write_text("".join(lines), encoding="utf-8")
