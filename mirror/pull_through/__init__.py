"""Fetch from an upstream hub what the managed cache lacks, while clients already read it."""
