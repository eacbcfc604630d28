"""Functions on tensors: window order, selection, packing, packed attention. No files, no annotations."""
