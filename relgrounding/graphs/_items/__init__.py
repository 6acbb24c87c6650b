"""The items of a batch: joined in flat arrays, padded to matrices, and as tiles of a byte per pair of nodes."""
