"""A server of tools over twenty pages; over its standard streams, or over HTTP with ``--http PORT``."""

import os
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

PAGES = {f"https://atlas.example/{number}": f"The height of hill {number} is {100 + number} m." for number in range(20)}
server = MCPServer("atlas")


@server.tool()
def web_search(query: str, count: int = 3) -> list[dict[str, str]]:
    """Search."""
    if query == "die":
        os._exit(1)
    words = query.lower().split()
    found = [(url, text) for url, text in PAGES.items() if all(word in text.lower().split() for word in words)]
    return [{"title": f"Page {url}", "url": url, "description": text} for url, text in found[:count]]


@server.tool()
def fetch(url: str) -> str:
    """Read."""
    if url not in PAGES:
        raise ToolError(f"no page there, says {os.environ.get('PLANTED_KEY')}")
    return PAGES[url]


if __name__ == "__main__":
    if "--http" in sys.argv:
        server.run("streamable-http", port=int(sys.argv[-1]))
    else:
        server.run("stdio")
