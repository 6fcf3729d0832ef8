"""`python -m libstream`: the command line."""

import sys

from libstream.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
