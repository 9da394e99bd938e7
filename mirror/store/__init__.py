"""Writes to the managed cache: blobs, digest checks, publication of revisions, progress events."""
