"""Carrying a data folder elsewhere: rsync and bundles."""
