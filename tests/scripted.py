"""Servers that say what a test wants, whatever they are asked."""

import json
from contextlib import asynccontextmanager

import trio

JOBS = {"jobs": [], "next_before": None}


def answer(status, body, **headers):
    """An HTTP answer as bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def good(body=JOBS):
    return answer(200, body, Content_Type="application/json")


def refused(status, code, *, retryable=False, **headers):
    body = {"error": {"code": code, "message": "no", "hint": "later", "retryable": retryable}}
    return answer(status, body, Content_Type="application/json", **headers)


@asynccontextmanager
async def scripted(*answers):
    """Something that listens, and gives each request the next answer; the last one again and again."""
    given = list(answers)
    asked = []

    async def talk(stream):
        async with stream:
            request = b""
            while data := await stream.receive_some():
                request += data
                if b"\r\n\r\n" in request:
                    asked.append(request)
                    request = b""
                    await stream.send_all(given.pop(0) if len(given) > 1 else given[0])

    async def serve(task_status):
        await trio.serve_tcp(talk, 0, host="127.0.0.1", task_status=task_status)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", asked
        nursery.cancel_scope.cancel()
