"""``python -m samedge``, the same program as ``samedge``."""

from samedge.cli.app import main

if __name__ == "__main__":
    main()
