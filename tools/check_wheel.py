"""Say what a built wheel lacks.

python tools/check_wheel.py dist/cryomamba-VERSION-py3-none-any.whl
"""

from __future__ import annotations

import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

NEEDED = (
    "cryomamba_core/py.typed",
    "cryomamba_backends/py.typed",
    "cryomamba_server/py.typed",
    "cryomamba_backends/nnunet/bundled/cryomamba-demo/model.json",
    "cryomamba_backends/nnunet/bundled/cryomamba-demo/*.safetensors",
    "cryomamba_server/*/versions/*.py",
    "cryomamba-*.dist-info/entry_points.txt",
    "cryomamba-*.dist-info/licenses/LICENSE",
)
FOREIGN = ("tests/*", "docs/*", "tools/*", "*.pyc", "*.mrc")
MOST_BYTES = 6 << 20


def main() -> None:
    """Check the wheel that is named."""
    wheel = Path(sys.argv[1])
    names = zipfile.ZipFile(wheel).namelist()
    faults = [f"lacks {pattern}" for pattern in NEEDED if not any(fnmatch(name, pattern) for name in names)]
    faults += [f"holds {name}" for name in names if any(fnmatch(name, pattern) for pattern in FOREIGN)]
    if wheel.stat().st_size > MOST_BYTES:
        faults.append(f"has {wheel.stat().st_size} bytes, more than {MOST_BYTES}")
    if faults:
        sys.exit("\n".join(f"{wheel.name} {fault}" for fault in faults))
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
