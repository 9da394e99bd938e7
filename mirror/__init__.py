"""hubmirror: a local Hugging Face hub for hosts without internet."""

__version__ = "0.1.0"
