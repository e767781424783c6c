"""Cache folder, digests, atomic writes and locks."""
