"""`python -m simjax` is the `simjax` command."""

import sys

from simjax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
