"""The command line: a thin face over the public API, one file a command, no logic."""
