"""A stand-in for the Hugging Face hub on loopback: as much of its interface as foveal uses, with faults on demand."""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = 'c0ffee' + '0' * 34


class Hub(ThreadingHTTPServer):
    """The server and its content.

    Attributes:
        repos: repository -> branch -> path -> bytes.
        private: repositories that need the token 'hf_right'.
        break_after: path -> bytes after which the connection breaks once.
        asked: how often each path was asked for, and from which byte.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.break_after: dict[str, int] = {}
        self.asked: Counter[tuple[str, int]] = Counter()
        self.created: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'

    def add(self, repo: str, files: dict[str, bytes], branch: str = 'main') -> None:
        self.repos.setdefault(repo, {}).setdefault(branch, {}).update(files)

    def commit_of(self, branch: str) -> str:
        return COMMIT if branch == 'main' else hashlib.sha1(branch.encode()).hexdigest()

    def branch_of(self, repo: str, revision: str) -> str | None:
        return next((b for b in self.repos.get(repo, {}) if revision in (b, self.commit_of(b))), None)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args: Any) -> None:
        """Silence."""

    def answer(self, status: int, body: bytes | dict[str, Any] = b'', **headers: str) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        for name, value in {'Content-Length': str(len(data)), **headers}.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def allowed(self, repo: str) -> bool:
        return repo not in self.server.private or self.headers.get('Authorization') == 'Bearer hf_right'

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if match := re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', self.path):
            repo, revision, path = match.groups()
            branch = self.server.branch_of(repo, revision)
            if repo not in self.server.repos or not self.allowed(repo):
                return self.answer(401, {}, X_Error_Code='RepoNotFound')
            if branch is None:
                return self.answer(404, {}, X_Error_Code='RevisionNotFound')
            data = self.server.repos[repo][branch].get(path)
            commit = self.server.commit_of(branch)
            if data is None:
                return self.answer(404, {}, X_Error_Code='EntryNotFound', X_Repo_Commit=commit)
            return self.send_file(path, data, X_Repo_Commit=commit, ETag=f'"{hashlib.sha256(data).hexdigest()}"')
        if match := re.fullmatch(r'/files/(.+)', self.path):
            data = self.server.repos['files']['main'].get(match[1])
            return self.answer(404) if data is None else self.send_file(match[1], data)
        if match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/(?:revision|tree)/([^/?]+).*', self.path):
            branch = self.server.branch_of(*match.groups())
            if branch is None:
                return self.answer(404, {}, X_Error_Code='RevisionNotFound')
            return self.answer(200, {'id': match[1], 'sha': self.server.commit_of(branch), 'siblings': []})
        return self.answer(404, {})

    def send_file(self, path: str, data: bytes, **headers: str) -> None:
        span = re.fullmatch(r'bytes=(\d+)-\d*', self.headers.get('Range', ''))
        start = int(span[1]) if span else 0
        if self.command == 'GET':
            self.server.asked[path, start] += 1
        if span and start >= len(data):
            return self.answer(416)
        if span:
            headers['Content_Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
        stop = self.server.break_after.pop(path, None) if self.command == 'GET' else None
        if stop is None:
            return self.answer(206 if span else 200, data[start:], **headers)
        self.send_response(206 if span else 200)
        for name, value in {'Content-Length': str(len(data) - start), **headers}.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        self.wfile.write(data[start:stop])
        self.wfile.flush()
        self.close_connection = True
        return None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        if self.path == '/api/validate-yaml':
            return self.answer(200, {'errors': [], 'warnings': []})
        if self.headers.get('Authorization') != 'Bearer hf_right':
            return self.answer(401, {'error': 'Invalid username or password.'})
        if self.path == '/api/repos/create':
            wish = json.loads(body)
            repo = f'{wish["organization"]}/{wish["name"]}' if wish.get('organization') else wish['name']
            self.server.created.append(wish)
            self.server.repos.setdefault(repo, {'main': {}})
            return self.answer(200, {'url': f'{self.server.url}/{repo}', 'id': repo, 'name': repo})
        if match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/branch/([^/]+)', self.path):
            self.server.repos[match[1]].setdefault(match[2], {})
            return self.answer(200, {})
        if re.fullmatch(r'/api/models/([^/]+/[^/]+)/preupload/([^/?]+).*', self.path):
            files = json.loads(body)['files']
            return self.answer(
                200, {'files': [{'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for f in files]}
            )
        if match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/commit/([^/?]+).*', self.path):
            repo, branch = match.groups()
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file':
                    data = base64.b64decode(line['value']['content'])
                    self.server.repos[repo][branch][line['value']['path']] = data
            url = f'{self.server.url}/{repo}/commit/{COMMIT}'
            return self.answer(200, {'commitUrl': url, 'commitOid': COMMIT, 'pullRequestUrl': None})
        return self.answer(404, {})
