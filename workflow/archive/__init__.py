"""Archives of results folders: checks of all files (``sida verify``), and packing as an RO-Crate."""
