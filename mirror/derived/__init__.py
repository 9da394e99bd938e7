"""What is computed from the files that are served, and may be deleted at any time."""
