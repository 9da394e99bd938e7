"""Copies a data folder to another host, with rsync or with bundles on a disk."""
