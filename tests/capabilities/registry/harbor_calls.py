"""Calls of Harbor's API on a registry in this process."""

import json


class HarborCalls:
    """As the administrator, or as somebody else by ``authorization``."""

    def __init__(self, direct, authorization=None):
        self._direct = direct
        self._as = {} if authorization is None else {"authorization": authorization}

    def __call__(self, method, path, body=None, expect=200, **headers):
        data = b"" if body is None else json.dumps(body).encode()
        answer = self._direct.call(method, f"/api/v2.0{path}", data, **{**self._as, **headers})
        assert answer.status == expect, (method, path, answer.status, answer.body)
        self.answer = answer
        kind = answer.headers.get("content-type", "")
        return (
            json.loads(answer.body) if kind.startswith("application/json") and answer.body else None
        )

    def get(self, path, expect=200, **headers):
        return self("GET", path, None, expect, **headers)

    def make(self, path, body, **headers):
        self("POST", path, body, 201, **headers)
        return self.answer.headers["location"].rpartition("/")[2]

    def error(self, method, path, body=None, expect=400):
        found = self(method, path, body, expect)
        (error,) = found["errors"]
        return error["code"]
