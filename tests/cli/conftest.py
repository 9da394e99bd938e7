"""Fixtures of commands: a simulated hub, and a folder that is filled from it."""

from tests.filling import filling, simulator

__all__ = ["filling", "simulator"]
