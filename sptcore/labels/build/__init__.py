"""make-labels: from a data set to its label store, and back to check it.

`make_labels`, `merge_labels`, `verify_stores` and `preview_labels` are what the command does for every split. Beneath:
`build_labels` builds one store, `ensure_labels` finds or builds the one that belongs to a data set, `verify_labels`
derives everything again, `check_store` tells whether a store belongs to a data set at all.
"""

from sptcore.labels.build.check import check_store, verify_labels
from sptcore.labels.build.ensure import ensure_labels, label_path
from sptcore.labels.build.job import BuildReport, build_labels, check_target, summarise
from sptcore.labels.build.make import LabelPlan, make_labels, merge_labels, preview_labels, verify_stores
from sptcore.labels.build.recipe import SOURCES, LabelSource, Recipe
from sptcore.labels.build.staging import Shard
from sptcore.labels.build.untrusted import verify_untrusted

__all__ = [
    "SOURCES",
    "BuildReport",
    "LabelPlan",
    "LabelSource",
    "Recipe",
    "Shard",
    "build_labels",
    "check_store",
    "check_target",
    "ensure_labels",
    "label_path",
    "make_labels",
    "merge_labels",
    "preview_labels",
    "summarise",
    "verify_labels",
    "verify_stores",
    "verify_untrusted",
]
