"""What differs between a developer's machine, the tests and production."""

from __future__ import annotations

import os


class Config:
    SECRET_KEY = os.environ.get("SECRET_KEY")
    SESSION_COOKIE_SAMESITE = "Lax"  # the forms post with the cookie; other sites must not
    SQLALCHEMY_DATABASE_URI = os.environ.get("DATABASE_URL", "postgresql+psycopg2:///studies")
    # Who did what is kept in a database of its own, which outlives a participant's data.
    SQLALCHEMY_BINDS = {
        "audit": os.environ.get("AUDIT_DATABASE_URL", "postgresql+psycopg2:///studies_audit"),
    }
    SQLALCHEMY_ENGINE_OPTIONS = {"pool_pre_ping": True}  # a restart of the server costs no request


class DevelopmentConfig(Config):
    SECRET_KEY = os.environ.get("SECRET_KEY", "dev")


class TestingConfig(Config):
    TESTING = True
    SECRET_KEY = "testing"
    # Nothing answers at ".invalid" (RFC 2606). The tests pass all the same, because dbtestcase points every engine of
    # the application at its own server: whatever stands here is never connected to.
    SQLALCHEMY_DATABASE_URI = "postgresql+psycopg2://nobody@production.invalid/studies"
    SQLALCHEMY_BINDS = {"audit": "postgresql+psycopg2://nobody@production.invalid/studies_audit"}


class ProductionConfig(Config):
    SESSION_COOKIE_SECURE = True


CONFIGS: dict[str, type[Config]] = {
    "development": DevelopmentConfig,
    "testing": TestingConfig,
    "production": ProductionConfig,
}
