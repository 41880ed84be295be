"""Say what is wrong with an installation without extras; run it with the Python of its environment."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

UNWANTED = {"hypercorn", "napari", "pyqt5", "pyqt6", "quart", "sqlalchemy", "torch"}


def main() -> None:
    """Check the environment of this interpreter."""
    installed = {distribution.name.lower() for distribution in metadata.distributions()}
    if pulled := sorted(installed & UNWANTED):
        sys.exit(f"the base installation pulls {', '.join(pulled)}")
    shown = run("--help")
    if "segment" not in shown:
        sys.exit(f"cryomamba --help does not name its commands:\n{shown}")
    plugins = json.loads(run("plugins", "--json"))
    records = plugins["plugins"] if isinstance(plugins, dict) else plugins
    if broken := [f"{record['name']}: {record['error']}" for record in records if record["error"]]:
        sys.exit("\n".join(broken))
    print(f"{len(installed)} distributions, {len(records)} plugins, no problems")


def run(*arguments: str) -> str:
    """What the installed command prints."""
    command = Path(sys.executable).with_name("cryomamba")
    return subprocess.run([command, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
