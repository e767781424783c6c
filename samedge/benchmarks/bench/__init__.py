"""The table of ``samedge bench``: models beside models, to be trusted. docs/bench.md has the rules."""
