"""``python -m tests.cluster.gated_marspipe FOLDER ARGUMENT...``: marspipe, one backprojection task of which waits."""

from __future__ import annotations

import sys

import marspipe.pipeline.reconstruct
from marspipe.cli import main
from tests.cluster.faults import Gate, WaitAtGate, backproject_with

if __name__ == "__main__":
    gate = Gate(sys.argv.pop(1))
    marspipe.pipeline.reconstruct.as_function = backproject_with(5, WaitAtGate(gate))
    main()
