"""The settings, and what the configuration file declares."""
