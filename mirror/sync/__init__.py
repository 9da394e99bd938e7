"""Pulls revisions from a hub into the managed cache."""
