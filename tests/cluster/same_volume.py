"""Compare volumes bit for bit."""

from __future__ import annotations

import numpy as np

from marspipe.store.volume import open_volume


def assert_same_volume(uri: str, expected_uri: str) -> None:
    """Assert that two volumes have the same bins and the same bits in every voxel."""
    volume, expected = open_volume(uri), open_volume(expected_uri)
    assert volume.shape == expected.shape
    assert len(volume) == len(expected)
    for bin_ in range(len(expected)):
        found = np.stack([volume[bin_][z] for z in range(volume.shape[0])])
        wanted = np.stack([expected[bin_][z] for z in range(volume.shape[0])])
        assert found.any()
        np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))
