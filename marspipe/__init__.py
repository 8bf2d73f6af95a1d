"""marspipe: spectral cone-beam CT from raw Medipix frames to Parquet and DICOM volumes, on Spark.

The public names load on first use, so that importing the package needs no Java, GPU or pydicom.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
# Raised whenever the same frames and recipe give other voxels: nightly reprocessing makes such volumes anew.
RESULTS_VERSION = 1

if TYPE_CHECKING:
    from marspipe.recon.fdk import fdk
    from marspipe.scan.geometry import ScanGeometry
    from marspipe.scan.grid import VolumeGrid
    from marspipe.store.volume import open_volume

__all__ = ["RESULTS_VERSION", "ScanGeometry", "VolumeGrid", "__version__", "fdk", "open_volume"]

_HOME = {
    "ScanGeometry": "marspipe.scan.geometry",
    "VolumeGrid": "marspipe.scan.grid",
    "fdk": "marspipe.recon.fdk",
    "open_volume": "marspipe.store.volume",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'marspipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
