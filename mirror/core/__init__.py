"""What every room speaks of: repositories, trees, records, the interface of a source, errors."""
