"""Evaluation on a cluster of worker processes."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

pytestmark = pytest.mark.torch


def test_a_cluster_gives_the_figures_of_one_process(digits, images):
    from dask.distributed import Client, LocalCluster

    many = {name: np.resize(array, (100_000, *array.shape[1:])) for name, array in images.items()}
    whole = digits.evaluate(many)
    with LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        executor = client.get_executor()
        assert digits.evaluate(many, executor=executor) == whole
        # One worker dies in the middle; its shard is done again.
        killed = []

        def kill(step, done, total):
            if not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        assert digits.evaluate(many, executor=executor, shards=40, progress=kill) == whole
        assert killed
