"""Which CUDA device there is to measure on."""

from __future__ import annotations

import shutil
import subprocess

from marspipe.recon.backprojection.device import cuda_available, require_cuda


def cuda_device(required: bool) -> str | None:
    """Return name and driver version of the CUDA devices, as ``nvidia-smi`` tells them; None if there is no device.

    Raises
    ------
    EnvironmentMissingError
        If a device is required and none can be used.
    """
    if required:
        require_cuda()
    if not cuda_available():
        return None
    if shutil.which("nvidia-smi") is None:
        return "unknown, for want of nvidia-smi"
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return "; ".join(sorted({line.replace(", ", ", driver ") for line in lines})) or "unknown to nvidia-smi"
