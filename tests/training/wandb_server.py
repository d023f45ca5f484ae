"""A server of Weights & Biases on loopback that keeps what clients send, record by record, and gives it back."""

import gzip
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY, KEY = "tester", "k" * 40


@dataclass
class DashboardRun:
    """What the server has of one run."""

    name: str
    project: str = ""
    fields: dict = field(default_factory=dict)  # displayName, groupName, jobType, tags, notes, sweep ...
    config: dict = field(default_factory=dict)
    history: dict = field(default_factory=dict)  # by line
    summary: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    used: list = field(default_factory=list)  # ids of artifacts
    exit_code: int | None = None

    @property
    def rows(self):
        return [self.history[line] for line in sorted(self.history)]

    def logged(self, key):
        """What was logged by step."""
        return {row["trainer/global_step"]: row[key] for row in self.rows if key in row}

    def settings(self):
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}

    def table(self, key):
        """Columns and rows of the table that the summary names."""
        content = json.loads(self.files[self.summary[key]["path"]])
        return content["columns"], content["data"]


@dataclass
class Artifact:
    """What the server has of one artifact; files are by their path in it."""

    id: str
    fields: dict
    files: dict = field(default_factory=dict)
    manifest: dict = field(default_factory=dict)
    state: str = "PENDING"

    @property
    def name(self):
        return (self.fields.get("artifactCollectionNames") or [self.fields["artifactCollectionName"]])[0]


class WandbServer(ThreadingHTTPServer):
    """The server and its records; ``records`` has the kind of each and what it was about, in order."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.RLock()
        self.forget()

    def forget(self):
        self.runs, self.artifacts, self.records, self.views, self.unanswered = {}, {}, [], [], set()
        self.calls = []  # of Weave

    @contextmanager
    def known_to_the_client(self, patch, folder):
        """Let runs be online, here; nothing is known of those before."""
        import wandb

        wandb.teardown()
        self.forget()
        told = {"BASE_URL": self.url, "API_KEY": KEY, "MODE": "online"}
        for name, value in {**told, "CONFIG_DIR": folder / "config", "DATA_DIR": folder / "data"}.items():
            patch.setenv(f"WANDB_{name}", str(value))
        yield
        wandb.teardown()

    def run(self, **fields):
        """The one run whose fields are these."""
        (found,) = [one for one in self.runs.values() if fields.items() <= one.fields.items()]
        return found

    def artifact(self, name):
        """The latest version of an artifact that was committed."""
        return [one for one in self.artifacts.values() if one.name == name and one.state == "COMMITTED"][-1]

    # GraphQL

    def answer(self, operation, query, variables):
        handler = getattr(self, f"on_{re.sub('(?<!^)(?=[A-Z])', '_', operation).lower()}", None)
        if handler is None and "viewer" in query:  # asked without a name by clients before 0.31
            return self.on_viewer(variables)
        if handler is None:
            self.unanswered.add(operation)
            return {}
        return handler(variables)

    def on_viewer(self, variables):
        return {
            "viewer": {
                "id": "u",
                "entity": ENTITY,
                "username": ENTITY,
                "email": "",
                "flags": "{}",
                "teams": {"edges": []},
            }
        }

    def on_default_entity(self, variables):  # this and the next: Weave asks
        return {"viewer": {"username": ENTITY, "defaultEntity": {"name": ENTITY}}}

    def on_project(self, variables):
        return {"project": {"name": variables["name"]}}

    def on_server_features_query(self, variables):
        return {"serverInfo": {"features": []}}

    def on_artifact_type(self, variables):
        return {"project": None}

    def on_run_resume_status(self, variables):
        run = self.runs.get(variables["name"])
        bucket = run and {
            "id": run.name, "name": run.name, "displayName": run.fields.get("displayName"),
            "summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config),
            "logLineCount": 0, "historyLineCount": len(run.history), "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.rows[-1:]]), "eventsTail": "[]",
            "tags": run.fields.get("tags") or [], "notes": run.fields.get("notes"), "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip
        self.record("resume", variables["name"], run is not None)
        return {
            "model": {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}
        }

    def on_upsert_bucket(self, variables):
        name = variables["name"]
        new = name not in self.runs
        run = self.runs.setdefault(name, DashboardRun(name))
        run.project = variables["project"] or run.project
        own = ("displayName", "groupName", "jobType", "tags", "notes", "sweep", "entity")
        run.fields |= {key: variables[key] for key in own if variables.get(key) is not None}
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        if variables.get("summaryMetrics"):
            run.summary |= json.loads(variables["summaryMetrics"])
        self.record("run", name, "new" if new else "changed")
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": name, "name": name, "displayName": run.fields.get("displayName"), "description": None,
            "config": json.dumps(run.config), "sweepName": run.fields.get("sweep"), "project": project,
            "historyLineCount": len(run.history),
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_create_run_files(self, variables):
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def on_create_artifact(self, variables):
        given = variables["input"]
        number = f"A{len(self.artifacts)}"
        self.artifacts[number] = Artifact(number, given)
        self.record("artifact", given["artifactTypeName"], self.artifacts[number].name)
        sequence = {"latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": number, "state": "PENDING", "artifactSequence": sequence}}}

    def on_create_artifact_manifest(self, variables):
        number = variables["artifactID"]
        address = f"{self.url}/manifest/{number}"
        file = {"id": f"F{number}", "uploadUrl": address, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"M{number}", "file": file}}}

    def on_update_artifact_manifest(self, variables):
        return {
            "updateArtifactManifest": self.on_create_artifact_manifest(
                {"artifactID": variables["artifactManifestID"][1:]}
            )["createArtifactManifest"]
        }

    def on_create_artifact_files(self, variables):
        nodes = [
            {
                "node": {
                    "storagePath": f"s/{one['artifactID']}/{one['name']}", "uploadHeaders": [],
                    "uploadUrl": f"{self.url}/blob/{one['artifactID']}/{one['name']}", "uploadMultipartUrls": None,
                    "artifact": {"id": one["artifactID"]},
                }
            }
            for one in variables["input"]["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def on_commit_artifact(self, variables):
        artifact = self.artifacts[variables["artifactID"]]
        artifact.state = "COMMITTED"
        self.record("committed", artifact.name, sorted(artifact.files))
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.fields["digest"]}}}

    def on_use_artifact(self, variables):
        given = variables["input"]
        self.runs[given["runName"]].used.append(given["artifactID"])
        self.record("used", given["runName"], self.artifacts[given["artifactID"]].name)
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    def on_get_projects(self, variables):
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": []}}

    def on_project_internal_id(self, variables):
        return {"project": {"id": "p", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}}

    def on_create_project(self, variables):
        name = variables["input"]["name"]
        project = {"id": "p", "name": name, "entityName": ENTITY, "description": "", "access": "USER", "views": "{}"}
        return {"result": {"project": project, "model": project, "inserted": True}}

    def on_upsert_view2(self, variables):
        self.views.append({**variables, "spec": json.loads(variables["spec"])})
        self.record("view", variables["type"], variables["displayName"])
        project = {"id": "p", "name": variables["projectName"], "entityName": ENTITY}
        view = {"id": f"V{len(self.views)}", "project": project, "previewUrl": None, "coverUrl": None, "locked": False}
        view |= {key: variables[key] for key in ("name", "displayName", "description", "type", "spec")}
        view |= {"createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00", "user": {"username": ENTITY}}
        return {"upsertView": {"view": view, "inserted": True}}

    on_upsert_view = on_upsert_view2

    # Everything else

    def handle_error(self, request, address):
        """Say nothing of clients that hang up."""

    def record(self, *parts):
        self.records.append(parts)

    def stream(self, name, content):
        run = self.runs.setdefault(name, DashboardRun(name))
        for file, chunk in (content.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                for line, text in enumerate(chunk["content"], chunk["offset"]):
                    run.history[line] = json.loads(text)
                    self.record("row", name, sorted(key for key in run.history[line] if not key.startswith("_")))
            elif file == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
        if content.get("complete"):
            run.exit_code = content["exitcode"]
            self.record("end", name, content["exitcode"])

    def keep(self, path, content):
        kind, owner, _, rest = re.fullmatch(r"/(upload|blob|manifest)/([^/]+)(/(.*))?", path).groups()
        if kind == "upload":
            self.runs[owner].files[rest] = content
            self.record("file", owner, rest)
        elif kind == "blob":
            self.artifacts[owner].files[rest] = content
        else:
            self.artifacts[owner].manifest = json.loads(content)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):  # noqa: N802
        content = self.content()
        with self.server.lock:
            if self.path.endswith("/graphql"):
                asked = json.loads(content)
                name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                answer = self.server.answer(name and name[1] or "", asked["query"], asked.get("variables") or {})
                self.reply(answer if "errors" in answer else {"data": answer})
            else:
                stream = re.fullmatch(r"/files/.*?([^/]+)/file_stream", self.path)
                if stream:
                    self.server.stream(stream[1], json.loads(content))
                elif self.path.endswith("/calls/complete"):
                    self.server.calls += json.loads(content)["batch"]
                digest = "d" * 43 if self.path in ("/obj/create", "/file/create") else None
                self.reply({"digest": digest} if digest else {"res": []})

    def do_PUT(self):  # noqa: N802
        content = self.content()
        with self.server.lock:
            self.server.keep(self.path, content)
        self.reply({})

    def do_GET(self):  # noqa: N802
        self.reply({"min_required_weave_python_version": "0.0.1"} if self.path == "/server_info" else {})

    def content(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def reply(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextmanager
def serve():
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
