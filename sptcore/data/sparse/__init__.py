"""make-sparse: the images of a data set whose object-pixel ratio lies below a threshold, as a set of their own."""

from sptcore.data.sparse.job import SparsePlan, SparseReport, default_out, make_sparse
from sptcore.data.sparse.rule import SparseRule

__all__ = ["SparsePlan", "SparseReport", "SparseRule", "default_out", "make_sparse"]
