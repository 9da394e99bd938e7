"""Fixtures of tests that pull: a simulated hub, and a folder that is filled from it."""

from tests.filling import alone, filling, later, simulator

__all__ = ["alone", "filling", "later", "simulator"]
