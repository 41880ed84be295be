"""What executors start: ``python -m cryomamba_core.worker JOB_DIR``, or ``--line DESCRIPTOR`` for several jobs."""

import sys
from pathlib import Path

from cryomamba_core.worker import run_worker
from cryomamba_core.worker.line import serve_line

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--line", descriptor]:
            sys.exit(serve_line(int(descriptor)))
        case [job_dir]:
            sys.exit(run_worker(Path(job_dir)))
        case _:
            sys.exit(__doc__)
