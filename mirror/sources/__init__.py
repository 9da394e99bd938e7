"""The kinds of folder that are served in place."""
