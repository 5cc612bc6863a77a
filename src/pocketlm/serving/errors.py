"""Errors of the server in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

MOST_MESSAGE = 600
"""Characters of a message: what a client sent is never echoed at length."""

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class ApiError(Exception):
    """What a client is told instead of an answer.

    Args:
        status: of HTTP; its `type` follows from it.
        message: what is wrong, where, the remedy.
        param: the field of the request, if one is to blame.
        code: a word that programs can compare.
        retry_after: seconds to wait before trying again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after
        self.message = message if len(message) <= MOST_MESSAGE else f"{message[:MOST_MESSAGE]}..."

    @property
    def body(self) -> dict[str, Any]:
        """What stands in the answer, or in an event of a stream that had begun."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status in (500, 504):
            headers["x-should-retry"] = "false"  # the same work would end the same way; OpenAI's clients read this
        return JSONResponse(self.body, self.status, headers)
