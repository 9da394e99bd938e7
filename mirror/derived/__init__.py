"""Facts computed from the served files. The operator can delete them at any time."""
