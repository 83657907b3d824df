"""`python -m package_cache`."""

import sys

from package_cache.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
