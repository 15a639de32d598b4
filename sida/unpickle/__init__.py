"""Allow-list pickle reader: tensors and plain values from untrusted files, nothing is executed."""
