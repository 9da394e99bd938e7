"""Filling a managed cache, looking after it, and carrying it elsewhere."""
