"""Files: whole-or-absent writes, text, tensor files, archives, content hashes, temporary files."""
