"""python -m mml_lightning: the `mml` command where the script itself is not on the path."""

import sys

from mml_lightning.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
