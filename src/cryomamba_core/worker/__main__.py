"""``python -m cryomamba_core.worker JOB_DIR``: what executors start."""

import sys
from pathlib import Path

from cryomamba_core.worker import run_worker

if __name__ == "__main__":
    sys.exit(run_worker(Path(sys.argv[1])))
