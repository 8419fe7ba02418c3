"""Participants, sessions and trials of measurement experiments, as a Flask application."""

from __future__ import annotations

import os

from flask import Flask

from studies import api, cli, errors, pages
from studies.config import CONFIGS
from studies.database import db, migrate


def create_app(config: str | None = None) -> Flask:
    """Make the application.

    Args:
        config: A name from ``config.CONFIGS``; without it the environment's ``APP_CONFIG``, or ``"development"``.

    Raises:
        RuntimeError: There is no secret key to sign cookies with.
    """
    app = Flask(__name__)
    app.config.from_object(CONFIGS[config or os.environ.get("APP_CONFIG", "development")])
    if not app.config["SECRET_KEY"]:
        # Flask would only complain at the first login, in front of a participant.
        raise RuntimeError("set the environment variable SECRET_KEY: cookies are signed with it")

    db.init_app(app)
    migrate.init_app(app, db)
    app.register_blueprint(api.bp)
    app.register_blueprint(pages.bp)
    cli.init_app(app)
    errors.init_app(app)
    return app
