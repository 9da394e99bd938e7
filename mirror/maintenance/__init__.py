"""Looking after what is here: verify, adopt, remove."""
