"""From declared sources to running processes."""
