"""Real local HTTP servers whose every byte the test decides."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager, contextmanager


class Request:
    """One request as the server saw it: method, path with query, headers (lower case), body."""

    def __init__(self, head, body):
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ", 2)
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }
        self.body = body


@asynccontextmanager
async def serve(respond, host="127.0.0.1", port=0):
    """Serve ``await respond(request, writer)`` and yield the port; returned bytes are sent, then the line is cut."""

    async def connection(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
            body = await reader.readexactly(int(length.split(b":")[1]))
            reply = await respond(Request(head[:-4], body), writer)
            if reply:
                writer.write(reply)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, host, port)
    async with server:
        yield server.sockets[0].getsockname()[1]


def reply(body=b"", status="200 OK", content_type="text/html; charset=utf-8", **headers):
    """Build a complete reply; ``Retry_After=1`` becomes the header ``Retry-After: 1``, and None leaves one out."""
    body = body.encode() if isinstance(body, str) else body
    headers = {"Content_Type": content_type, "Content_Length": len(body), "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


def completion(content, finish_reason=None, usage=None, **fields):
    """Build the reply of a chat completions endpoint: 10 tokens read, 5 written, or ``usage``."""
    finish_reason = finish_reason or ("tool_calls" if fields.get("tool_calls") else "stop")
    message = {"role": "assistant", "content": content, **fields}
    usage = usage or {"prompt_tokens": 10, "completion_tokens": 5}
    body = {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage}
    return reply(json.dumps(body), content_type="application/json")


@contextmanager
def model_server(respond):
    """Serve from a thread of its own, as the run takes the main one; yield the address."""
    started, stop = threading.Event(), threading.Event()
    port = []

    async def main():
        async with serve(respond) as number:
            port.append(number)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{port[0]}/v1"
    finally:
        stop.set()
        thread.join()
