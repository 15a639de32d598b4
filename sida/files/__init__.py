"""Reading and writing of files: atomic writes, text, tensor files, archives, content hashes, temporary files."""
