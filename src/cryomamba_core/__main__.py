"""``python -m cryomamba_core``: the command, where the scripts of the environment are not on the path."""

import sys

from cryomamba_core.cli.main import main

sys.exit(main())
