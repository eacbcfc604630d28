"""Select and Pack Transformer: sparse data sets, selection labels, models, training, measurement (arXiv 2410.23608)."""

__version__ = "0.1.0"
