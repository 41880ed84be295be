"""nginx with its WebDAV module, as fast as it goes, for comparison."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """
{user}
daemon off;
worker_processes 2;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {prefix}/bodies;
    client_body_buffer_size 1m;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            root {prefix}/files;
            dav_methods PUT;
        }}
    }}
}}
"""


@contextmanager
def nginx(prefix: Path) -> Iterator[str]:
    """Serve ``prefix/files``, also for PUT; gives the address."""
    program = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))
    if program is None:
        sys.exit("this benchmark compares with nginx: install it, e.g. apt-get install nginx")
    (prefix / "files").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = prefix / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(CONFIGURATION.format(user=user, prefix=prefix, port=port))
    command = [program, "-p", str(prefix), "-c", str(configuration), "-e", str(prefix / "error.log")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not _listens(port):
            if process.poll() is not None:
                sys.exit(f"nginx does not start:\n{(prefix / 'error.log').read_text()}")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
