"""What a client reads when something is wrong: JSON below /api, a page elsewhere."""

from __future__ import annotations

from flask import Flask, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Conflict, HTTPException

from studies.services import Refused


def init_app(app: Flask) -> None:
    app.register_error_handler(HTTPException, show_error)
    app.register_error_handler(Refused, show_refusal)


def show_error(error: HTTPException) -> ResponseReturnValue:
    # An unexpected exception arrives here too: Flask logs it and wraps it in a "500" that tells nothing of it.
    wants_json = request.path.startswith("/api/")
    body = {"error": error.description} if wants_json else render_template("error.html", error=error)
    return body, error.code or 500


def show_refusal(error: Refused) -> ResponseReturnValue:
    return show_error(Conflict(str(error)))
