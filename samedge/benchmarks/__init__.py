"""The benchmarks: what samedge wins and loses against the reference packages. README.md beside this has the rules."""
