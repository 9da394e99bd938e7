"""Fixtures for pull tests: a simulated hub and a data folder."""

from tests.filling import alone, filling, later, simulator

__all__ = ["alone", "filling", "later", "simulator"]
