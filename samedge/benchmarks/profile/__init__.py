"""Where the time of a graph goes, and how near it is to what the machine can do."""
