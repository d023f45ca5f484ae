"""A small Hugging Face hub on loopback: repositories are made, written to in commits, listed and read."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"
_SHA = "0" * 40


class Hub:
    """What the server has been told.

    Attributes:
        repositories: Files by path, of each ``models/<owner>/<name>`` and ``datasets/...``.
        private: Those that were made private.
        calls: ``METHOD path`` of each request.
    """

    def __init__(self):
        self.repositories, self.private, self.calls, self.blobs = {}, set(), [], {}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def known_to_the_client(self, monkeypatch, tmp_path):
        """Point the client to this hub, as HF_ENDPOINT in the environment does at its start."""
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", self.address)
        template = self.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield self


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, content=None, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, message):
        self.answer(status, {"error": message}, X_Error_Message=message)

    def handle_any(self):
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.calls.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.command == "PUT" and path.startswith("/lfs/"):  # signed addresses need no token
            hub.blobs[path.removeprefix("/lfs/")] = body
            return self.answer(200, {})
        if self.command in ("POST", "PUT") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "Invalid username or password.")
        for pattern, action in _ACTIONS:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return action(self, hub, body, **found.groupdict())
        return self.refuse(404, f"no {path} here")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815


def _create(request, hub, body):
    asked = json.loads(body)
    if asked.get("organization", "me") != "me":
        return request.refuse(403, f"You don't have the rights to create a model under {asked['organization']}.")
    kind = asked.get("type") or "model"
    repository = f"{kind}s/me/{asked['name']}"
    if repository in hub.repositories:
        return request.refuse(409, "You already created this repo")
    hub.repositories[repository] = {}
    if asked.get("private") or asked.get("visibility") == "private":
        hub.private.add(repository)
    return request.answer(200, {"url": f"{hub.address}/me/{asked['name']}"})


def _preupload(request, hub, body, repository):
    files = json.loads(body)["files"]
    modes = [
        {
            "path": one["path"],
            "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
            "shouldIgnore": False,
        }
        for one in files
    ]
    return request.answer(200, {"files": modes})


def _batch(request, hub, body, repository):
    objects = [
        {**one, "actions": {"upload": {"href": f"{hub.address}/lfs/{one['oid']}"}}}
        for one in json.loads(body)["objects"]
    ]
    return request.answer(200, {"objects": objects, "transfer": "basic"})


def _commit(request, hub, body, repository):
    for line in body.splitlines():
        operation = json.loads(line)
        value = operation["value"]
        if operation["key"] == "file":
            hub.repositories[repository][value["path"]] = base64.b64decode(value["content"])
        elif operation["key"] == "lfsFile":
            hub.repositories[repository][value["path"]] = hub.blobs[value["oid"]]
    kind, _, name = repository.partition("/")
    address = f"{hub.address}/{'' if kind == 'models' else kind + '/'}{name}/commit/{_SHA}"
    return request.answer(200, {"commitUrl": address, "commitOid": _SHA, "hookOutput": ""})


def _entries(files):
    return [
        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for path, content in sorted(files.items())
    ]


def _info(request, hub, body, repository, revision=None):
    if repository not in hub.repositories:
        return request.refuse(404, "Repository not found")
    siblings = [{"rfilename": path} for path in sorted(hub.repositories[repository])]
    name = repository.partition("/")[2]
    kind = {"private": repository in hub.private, "tags": [], "downloads": 0, "likes": 0, "disabled": False}
    return request.answer(200, {"_id": "1", "id": name, "sha": _SHA, "siblings": siblings, "gated": False, **kind})


def _may_write(request, hub, body, repository, write):
    if repository not in hub.repositories:
        return request.refuse(404, "Repository not found")
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        return request.refuse(401, "Invalid username or password.")
    return request.answer(200, {})


def _tree(request, hub, body, repository, folder=None):
    return request.answer(200, _entries(hub.repositories.get(repository, {})))


def _paths(request, hub, body, repository):
    text = body.decode()
    wanted = json.loads(text)["paths"] if text.startswith("{") else re.findall(r"paths=([^&]*)", unquote(text))
    files = hub.repositories.get(repository, {})
    return request.answer(200, _entries({path: files[path] for path in wanted if path in files}))


def _resolve(request, hub, body, kind, name, path):
    files = hub.repositories.get(f"{(kind or 'models/').rstrip('/')}/{name}", {})
    if path not in files:
        return request.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
    etag = hashlib.sha1(files[path]).hexdigest()
    return request.answer(200, files[path], ETag=f'"{etag}"', X_Repo_Commit=_SHA)


_REPOSITORY = "(?P<repository>(models|datasets)/[^/]+/[^/]+)"
_ACTIONS = [
    (r"POST /api/validate-yaml", lambda request, *_: request.answer(200, {"errors": [], "warnings": []})),
    (rf"GET /api/{_REPOSITORY}/auth-check(?P<write>/write)?", _may_write),
    (r"POST /api/repos/create", _create),
    (rf"POST /api/{_REPOSITORY}/preupload/[^/]+", _preupload),
    (r"POST /(?P<repository>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _batch),
    (rf"POST /api/{_REPOSITORY}/commit/[^/]+", _commit),
    (rf"POST /api/{_REPOSITORY}/paths-info/[^/]+", _paths),
    (rf"GET /api/{_REPOSITORY}/tree/[^/]+(/(?P<folder>.*))?", _tree),
    (rf"GET /api/{_REPOSITORY}(/revision/(?P<revision>[^/]+))?", _info),
    (r"(GET|HEAD) /(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/[^/]+/(?P<path>.+)", _resolve),
]


@contextmanager
def serve():
    """Serve an empty hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = server.hub = Hub()
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
