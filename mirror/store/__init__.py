"""The managed cache as those who write to it see it: blobs, proofs, publication, progress."""
