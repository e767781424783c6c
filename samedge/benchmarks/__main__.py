"""``python -m samedge.benchmarks``."""

from samedge.benchmarks.command import main

if __name__ == "__main__":
    main()
