"""Choice of the fastest backend on a machine."""
