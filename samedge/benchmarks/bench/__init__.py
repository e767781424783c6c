"""The table of ``samedge bench``: models compared with models. docs/bench.md has the rules."""
