"""The command line: `python -m colar_engine` is `colar-engine`."""

import sys

from ._command import main

if __name__ == "__main__":
    sys.exit(main())
