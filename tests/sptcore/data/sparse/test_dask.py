"""The same bytes from a real Dask cluster on this machine as from one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptcore.data.sample import sample_root
from sptcore.data.workers import named_executor
from tests.support.sparse_sets import make, tree

distributed = pytest.importorskip("distributed", reason="Dask is not installed (spt[cluster])")


@pytest.mark.slow
def test_a_cluster_writes_the_same_bytes(tmp_path: Path) -> None:
    root = sample_root() / "coco"
    make(root, tmp_path / "alone")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "dask")
    ) as cluster:
        address = cluster.scheduler_address.removeprefix("tcp://")
        executor = named_executor(f"dask://{address}")
        assert executor is not None
        make(root, tmp_path / "cluster", executor=executor)
        executor._client.close()  # type: ignore[attr-defined]
    assert tree(tmp_path / "cluster") == tree(tmp_path / "alone")
