"""`python -m sptcli` is `spt`."""

import sys

from sptcli.app import main

if __name__ == "__main__":
    sys.exit(main())
