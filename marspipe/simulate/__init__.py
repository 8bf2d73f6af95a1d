"""A virtual MARS scan in the real raw formats, with the truth beside it."""

from __future__ import annotations

from marspipe.simulate.defects import Defects
from marspipe.simulate.scan import simulate_scan
from marspipe.simulate.settings import Insert, InsertPhantom, SimulationSettings, mars_phantom

__all__ = ["Defects", "Insert", "InsertPhantom", "SimulationSettings", "mars_phantom", "simulate_scan"]
