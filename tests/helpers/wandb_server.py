"""As much of a W&B server as a run, its resume and ``wandb sync`` ask for, on this machine.

It keeps what was sent: of each run its lines of history by place, its summary and its tags. With a
``status`` other than 200 it answers that to everything, as to a bad key.
"""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Stored:
    """A run as the server has it."""

    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [self.history[place] for place in sorted(self.history)]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, status: int) -> None:
        self.status, self.runs = status, dict[str, Stored]()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of the server's business."""


@contextmanager
def serving(status: int = 200) -> Iterator[Server]:
    server = Server(status)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.server.status != 200:
            self._answer({"errors": [{"message": "refused"}]}, self.server.status)
        elif self.path.endswith("/graphql"):
            asked = json.loads(body)
            self._answer({"data": self._query(asked["query"], asked.get("variables") or {})})
        else:
            self._stream(body)
            self._answer({})

    do_GET = do_PUT = do_POST

    def _answer(self, what: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _query(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}
        if "RunResumeStatus" in query:
            return {"model": project | {"bucket": self._bucket(given["name"])}}
        if "upsertBucket" in query:
            new = given["name"] not in self.server.runs
            run = self.server.runs.setdefault(given["name"], Stored())
            run.tags = given.get("tags") or run.tags
            bucket = {"id": "b", "name": given["name"], "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        if "CreateRunFiles" in query:
            names = given["files"]
            files = [{"name": n, "uploadUrl": f"{self.server.url}/{n}"} for n in names]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}"}}

    def _bucket(self, name: str) -> dict[str, Any] | None:
        """A run that there is, for one that goes on with it."""
        if (run := self.server.runs.get(name)) is None:
            return None
        return {
            "id": "b",
            "name": name,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in run.lines[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "config": "{}",
            "tags": run.tags,
            "wandbConfig": '{"t": {}}',
        }

    def _stream(self, body: bytes) -> None:
        """Lines of a run's files, from a place on."""
        if not self.path.endswith("/file_stream"):
            return
        run = self.server.runs[self.path.split("/")[-2]]
        for name, chunk in (json.loads(body).get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]]
            if name == "wandb-history.jsonl":
                run.history |= dict(enumerate(lines, chunk["offset"]))
            elif name == "wandb-summary.json":
                run.summary = lines[-1]
