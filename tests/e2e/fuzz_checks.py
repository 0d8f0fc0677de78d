"""What the schema-driven fuzzer looks at beside the schema; loaded by it, not by pytest."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.check
def foreseen(ctx: Any, response: Any, case: Any) -> None:
    """No internal error; every error says in words and in a code what is wrong."""
    assert response.status_code != 500, response.text
    if response.status_code >= 400 and case.method != "HEAD":
        document = response.json()
        if response.headers["content-type"] == ["application/problem+json"]:
            assert document["status"] == response.status_code, document
            assert document["detail"], document
            assert isinstance(document["code"], str), document
        elif case.path.startswith(("/ping", "/predictions")):
            assert document["code"] == response.status_code, document
            assert document["message"], document
        elif "reasons" not in document:
            assert isinstance(document["error"], str), document
            assert document["error"], document
            assert isinstance(document["code"], str), document
