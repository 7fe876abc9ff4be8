"""`python -m minigpt`: see `run/cli.py`."""

import sys

from minigpt.run.cli import main

if __name__ == "__main__":
    sys.exit(main())
