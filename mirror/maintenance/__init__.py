"""Verifies, adopts and removes repositories."""
