"""Plain vision transformers: ViT, ViT with selection by ground truth, DynamicViT and EViT. One body, one map."""
