"""Allow-list reader of pickles: tensors and plain values from untrusted files, without executing anything."""
