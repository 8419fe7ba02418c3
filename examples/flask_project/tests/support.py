"""What the test modules share."""

from __future__ import annotations

from pathlib import Path

from dbtestcase.flask import FlaskDatabaseTestCase, FlaskLiveServerTestCase
from flask import Flask

from studies import create_app
from studies.database import db

PROJECT = Path(__file__).parent.parent


class AppTestCase(FlaskDatabaseTestCase):
    """The application on a throwaway PostgreSQL that holds its tables; each test's changes are undone.

    Every test has ``self.app`` (its context is pushed), ``self.client`` and ``self.session``.
    """

    db = db  # its models are the schema

    @classmethod
    def create_app(cls) -> Flask:
        return create_app("testing")


class LiveAppTestCase(AppTestCase, FlaskLiveServerTestCase):
    """The same, and the application is served at ``self.live_server_url``, for browsers and other programs.

    Each test has a private copy of the database, in which it and the requests commit for real.
    """
