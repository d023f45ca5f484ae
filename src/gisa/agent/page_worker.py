"""The process that parses pages for ``PageReader``: one after the other from stdin to stdout, within limits.

It imports no more than parsing needs, holds no key, and ends with its parent.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

from src.gisa.dataset.factbook.page_body import read_body


def main(cpu_s: float, memory_bytes: int, niceness: int) -> None:
    """Read pages until there are no more. One over ``cpu_s`` ends the process: nothing else stops a parser in C."""
    os.nice(niceness)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while head := sys.stdin.buffer.readline():
        request = json.loads(head)
        body = sys.stdin.buffer.read(request.pop("bytes"))
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        reply = json.dumps(_read(body, request)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(len(reply).to_bytes(8) + reply)
        sys.stdout.buffer.flush()


def _read(body: bytes, request: dict[str, Any]) -> dict[str, str]:
    try:
        return dict(vars(read_body(body, **request)))
    except MemoryError:
        return {"error": "it takes too much memory to read"}
    except Exception as error:  # a page must not cost more than itself, whatever a parser meets in it
        return {"error": f"it cannot be read: {error}" if str(error) else f"it cannot be read: {type(error).__name__}"}


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(int, sys.argv[2:]))
