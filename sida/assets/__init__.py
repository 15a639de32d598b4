"""Downloads: a registry of files with sizes and hashes, and a cache of complete, checked files."""
