"""A real reverse proxy between client and server, which shows the server under a path."""

import logging
import shutil
import socket
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
import servers
import trio

from cryomamba_backends.http_transport.patience import Patience
from cryomamba_core.errors import BrokenProtocol
from cryomamba_core.events import Completed
from cryomamba_core.jobs import JobConfig, Source

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")

NGINX = """
user root;
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    client_max_body_size 64m;
    server {{
        listen 127.0.0.1:{port};
        location /lab/cryomamba/ {{
            proxy_pass {server}/;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_request_buffering off;
            {upgrade}
        }}
    }}
}}
"""
UPGRADE = 'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'


@contextmanager
def nginx(folder, server, *, websockets):
    """Start nginx; yields the address under which it shows the server."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "nginx.conf"
    settings.write_text(NGINX.format(folder=folder, port=port, server=server, upgrade=UPGRADE if websockets else ""))
    process = subprocess.Popen(["nginx", "-c", settings, "-p", folder, "-e", folder / "error.log"])
    try:
        yield f"http://127.0.0.1:{port}/lab/cryomamba/"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("websockets", [True, False])
async def test_the_main_job_runs_through_nginx_under_a_path(tmp_path, session_with, write_npy, caplog, websockets):
    caplog.set_level(logging.DEBUG, "cryomamba_backends")
    path = write_npy(3 << 20)
    async with servers.open_test_server(tmp_path / "data", part_size=1 << 20) as server:
        with nginx(tmp_path / "nginx", server.url, websockets=websockets) as url:
            async with session_with(url, server.token()) as session:
                sent = await session.upload(path)
                job = await session.submit(JobConfig(source=Source(file_id=sent.id), runner="steps"))
                assert isinstance([event async for event in session.events(job.id)][-1], Completed)
                await session.download(job.id, "mask.npy", tmp_path / "mask.npy")
    assert ("Server-Sent Events" in caplog.text) is not websockets
    assert (np.load(tmp_path / "mask.npy") == (np.load(path) > 0)).all()


async def test_another_path_of_the_same_proxy_is_no_server(tmp_path, session_with):
    async with servers.open_test_server(tmp_path / "data") as server:
        with nginx(tmp_path / "nginx", server.url, websockets=True) as url:
            async with session_with(url.replace("/lab/cryomamba/", "/elsewhere"), server.token()) as session:
                with pytest.raises(BrokenProtocol) as caught:
                    await session.jobs()
                assert "whole path" in caught.value.hint


async def test_a_proxy_whose_server_is_away_is_asked_again_until_it_is_back(tmp_path, session_with):
    with (
        servers.ServerProcess(tmp_path / "data") as server,
        nginx(tmp_path / "nginx", server.url, websockets=True) as url,
    ):
        async with session_with(url, server.token(), patience=Patience(first=60)) as session:
            server.kill()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, server.restart)
                assert await session.jobs() == []
