"""A trained model as a file other programs run: ONNX, torch.export (pt2), or weights alone (`spt export`)."""
