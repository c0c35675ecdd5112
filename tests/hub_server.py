"""A server on this machine that speaks the Hub's protocol: repositories with commits, branches and tags, and large files."""

import base64
import contextlib
import hashlib
import json
import socket
import sys
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


#: Files that are committed as pointers and uploaded apart, by the end of their names.
LARGE = (".safetensors", ".bin", ".pt", ".pth", ".parquet")

TOKEN = "hf_authorsOwnSecret"
AUTHOR = "author"


@dataclass
class Commit:
    """A commit: its title, and the content of each file by its path."""

    sha: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """The branches, each a list of commits from the first to the last, and the tags, each the sha of a commit."""

    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": [new_commit("initial commit", {}, "")]})
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def find(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        sha = self.tags.get(revision, revision)
        return next((each for commits in self.branches.values() for each in commits if each.sha == sha), None)


def new_commit(title: str, files: dict[str, bytes], parent: str) -> Commit:
    state = hashlib.sha1(f"{parent} {title}".encode())
    for path, content in sorted(files.items()):
        state.update(path.encode() + content)
    return Commit(state.hexdigest(), title, files)


class Failure(Exception):
    """An answer of the server that is an error: its status, and the code by which the client knows the reason."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.code, self.message = status, code, message or code


class HubServer(ThreadingHTTPServer):
    """
    The server. It listens from its creation until `close`.

    Attributes:
        repositories: All repositories, by their kind (`"models"` or `"datasets"`) and name.
        requests: The method and path of each request.
        tokens: The names of the users by their tokens.
        broken: If set, a function of a request's method and path: the status of the error with which to answer it, 0 to
            answer as usual, or -1 to answer nothing and keep the connection open.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.connections: list[socket.socket] = []
        self.tokens = {TOKEN: AUTHOR}
        self.broken: Callable[[str, str], int] | None = None
        self.closing = threading.Event()
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.listen()

    def listen(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the client has gone
            super().handle_error(request, client_address)

    def get_request(self) -> tuple:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def pause(self) -> None:
        """End all connections, and refuse new ones until `resume`."""
        self.shutdown()
        self.socket.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def resume(self) -> None:
        """Listen again, at the same address."""
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()
        self.server_activate()
        self.listen()

    def model(self, name: str) -> Repository:
        return self.repositories["models", name]

    def add(self, name: str, files: dict[str, bytes], kind: str = "models", **options) -> Repository:
        """Put a repository with these files on the server."""
        repository = self.repositories[kind, name] = Repository(**options)
        commits = repository.branches["main"]
        commits.append(new_commit("files", files, commits[-1].sha))
        return repository

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args) -> None:
        pass

    def answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_request(self) -> None:
        # Read in any case, or what is left would be taken for the next request.
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.read_chunk, b""))
        path, _, query = self.path.partition("?")
        # A branch may have a slash in its name, which is quoted.
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        self.server.requests.append((self.command, path))
        try:
            status = self.server.broken(self.command, path) if self.server.broken else 0
            if status < 0:
                self.server.closing.wait()
                self.close_connection = True
                return
            if status:
                raise Failure(status, "", "broken")
            found = self.respond(parts, urllib.parse.parse_qs(query), body)
            if found is not None:
                self.answer(json.dumps(found).encode(), headers={"Content-Type": "application/json"})
        except Failure as failure:
            headers = {"X-Error-Code": failure.code, "X-Error-Message": failure.message}
            self.answer(json.dumps({"error": failure.message}).encode(), failure.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def read_chunk(self) -> bytes:
        content = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return content

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            raise Failure(401, "", "Invalid credentials in Authorization header")
        return self.server.tokens.get(token)

    def repository(self, kind: str, name: str) -> Repository:
        found = self.server.repositories.get((kind, name))
        if found is None or (found.private and self.user is None):
            raise Failure(404 if self.user else 401, "RepoNotFound", "Repository not found")
        return found

    def commit(self, repository: Repository, revision: str) -> Commit:
        found = repository.find(revision)
        if found is None:
            raise Failure(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def require_author(self) -> None:
        if self.user is None:
            raise Failure(401, "", "Invalid username or password.")

    def respond(self, parts: list[str], query: dict, body: bytes) -> object:
        """Answer a request, or return what to answer as JSON."""
        match parts:
            case ["api", "whoami-v2"]:
                self.require_author()
                return {"type": "user", "name": self.user, "orgs": [{"name": "laboratory"}], "auth": {}}
            case ["api", "validate-yaml"]:
                return {"errors": [], "warnings": []}
            case ["api", "repos", "create"]:
                return self.create(json.loads(body))
            case ["api", ("models" | "datasets") as kind, owner, name, *rest]:
                return self.api(kind, f"{owner}/{name}", rest, query, body)
            case ["large", oid]:
                return self.transfer(oid, body)
            case ["datasets", owner, name, *rest]:
                return self.files("datasets", f"{owner}/{name}", rest, body)
            case [owner, name, *rest]:
                return self.files("models", f"{owner}/{name}", rest, body)
        raise Failure(404, "RepoNotFound", "Repository not found")

    def create(self, asked: dict) -> dict:
        self.require_author()
        owner = asked.get("organization") or self.user
        if owner not in (self.user, "laboratory"):
            raise Failure(403, "", f"You don't have the rights to create a model under the namespace {owner}")
        name, kind = f"{owner}/{asked['name']}", f"{asked.get('type') or 'model'}s"
        url = {"url": f"{self.server.endpoint}/{name}", "name": name, "id": name}
        if (kind, name) in self.server.repositories:
            self.answer(json.dumps(url | {"error": "You already created this model repo"}).encode(), 409)
            return None
        self.server.repositories[kind, name] = Repository(private=asked.get("visibility") == "private")
        return url

    def api(self, kind: str, name: str, rest: list[str], query: dict, body: bytes) -> object:
        repository = self.repository(kind, name)
        match rest:
            case [] | ["revision", _]:
                commit = self.commit(repository, rest[1] if rest else "main")
                siblings = [{"rfilename": path} for path in commit.files]
                facts = {"id": name, "sha": commit.sha, "siblings": siblings, "private": repository.private}
                return facts | {"tags": [], "downloads": 0, "likes": 0}
            case ["tree", revision, *folder]:
                return tree(
                    self.commit(repository, revision),
                    "/".join(folder),
                    "true" in map(str.lower, query.get("recursive", [])),
                )
            case ["paths-info", revision]:
                commit = self.commit(repository, revision)
                asked = (
                    urllib.parse.parse_qs(body.decode()).get("paths", [])
                    if body[:1] != b"{"
                    else json.loads(body)["paths"]
                )
                return [entry for entry in tree(commit, "", True) if entry["path"] in asked]
            case ["commits", revision]:
                return [as_listed(each) for each in history_of(repository, self.commit(repository, revision))[::-1]]
            case ["refs"]:
                heads = {branch: commits[-1].sha for branch, commits in repository.branches.items()}
                found = {"branches": ("heads", heads), "tags": ("tags", repository.tags)}
                return {
                    group: [
                        {"name": ref, "ref": f"refs/{place}/{ref}", "targetCommit": sha} for ref, sha in refs.items()
                    ]
                    for group, (place, refs) in found.items()
                } | {"converts": []}
        self.require_author()
        match rest:
            case ["preupload", revision]:
                self.commit(repository, revision)
                files = json.loads(body)["files"]
                return {"files": [upload_mode(each["path"]) for each in files]}
            case ["commit", revision]:
                return self.add_commit(name, repository, revision, body)
            case ["branch", branch]:
                if branch in repository.branches:
                    raise Failure(409, "", "Reference already exists")
                start = self.commit(repository, json.loads(body or b"{}").get("startingPoint", "main"))
                repository.branches[branch] = history_of(repository, start)
                return {}
            case ["tag", tag] if self.command == "DELETE":
                if repository.tags.pop(tag, None) is None:
                    raise Failure(404, "RevisionNotFound", f"Invalid rev id: {tag}")
                return {}
            case ["tag", revision]:
                tag = json.loads(body)["tag"]
                if tag in repository.tags:
                    raise Failure(409, "", "Tag reference exists already")
                repository.tags[tag] = self.commit(repository, revision).sha
                return {}
        raise Failure(404, "", "/".join(rest))

    def add_commit(self, name: str, repository: Repository, branch: str, body: bytes) -> dict:
        commits = repository.branches.get(branch)
        if commits is None:
            raise Failure(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        header, *operations = [json.loads(line) for line in body.splitlines()]
        files = dict(commits[-1].files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.server.large:
                    raise Failure(400, "", f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = self.server.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"])
        commits.append(new_commit(header["value"]["summary"], files, commits[-1].sha))
        sha = commits[-1].sha
        return {"commitOid": sha, "commitUrl": f"{self.server.endpoint}/{name}/commit/{sha}", "success": True}

    def files(self, kind: str, name: str, rest: list[str], body: bytes) -> object:
        """Answer what is asked outside of `/api`: files, and where to upload large ones."""
        if rest == ["info", "lfs", "objects", "batch"]:
            self.repository(kind, name.removesuffix(".git"))
            self.require_author()
            return {"transfer": "basic", "objects": [self.upload(each) for each in json.loads(body)["objects"]]}
        if len(rest) < 3 or rest[0] != "resolve":
            raise Failure(404, "RepoNotFound", "Repository not found")
        commit = self.commit(self.repository(kind, name), rest[1])
        path = "/".join(rest[2:])
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            text = f"{path} does not exist"
            self.answer(b"", 404, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": text})
            return None
        content = commit.files[path]
        digest = hashlib.sha256 if path.endswith(LARGE) else hashlib.sha1
        self.answer(content, headers=headers | {"ETag": f'"{digest(content).hexdigest()}"'})
        return None

    def upload(self, asked: dict) -> dict:
        """Return where a large file is to be uploaded, unless the server has it."""
        if asked["oid"] in self.server.large:
            return asked
        return asked | {"actions": {"upload": {"href": f"{self.server.endpoint}/large/{asked['oid']}", "header": {}}}}

    def transfer(self, oid: str, body: bytes) -> None:
        """Take a large file."""
        if hashlib.sha256(body).hexdigest() != oid:
            raise Failure(400, "", f"{oid}: the content has another hash")
        self.server.large[oid] = body
        self.answer(b"")


def history_of(repository: Repository, last: Commit) -> list[Commit]:
    """Return a commit and those before it on its branch, from the first on."""
    branch = next(commits for commits in repository.branches.values() if last in commits)
    return branch[: branch.index(last) + 1]


def as_listed(commit: Commit) -> dict:
    """Return a commit as lists of commits have it."""
    return {"id": commit.sha, "title": commit.title, "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}


def upload_mode(path: str) -> dict:
    return {
        "path": path,
        "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
        "shouldIgnore": False,
        "oid": None,
    }


def tree(commit: Commit, folder: str, recursive: bool) -> list[dict]:
    """Return the files in a folder of a commit, with those further down if `recursive`, and else the folders there."""
    start = f"{folder}/" if folder else ""
    entries: dict[str, dict] = {}
    for path, content in commit.files.items():
        if not path.startswith(start):
            continue
        first, _, below = path.removeprefix(start).partition("/")
        if below:
            entries.setdefault(start + first, {"type": "directory", "path": start + first, "size": 0, "oid": "0" * 40})
        if recursive or not below:
            entries[path] = {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entries[path]["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return list(entries.values())
