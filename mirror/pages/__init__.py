"""The HTML pages: what is here, what is missing, and what to type."""
