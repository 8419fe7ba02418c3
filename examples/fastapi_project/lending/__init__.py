"""Tools that a neighbourhood lends: a FastAPI application on an ``AsyncEngine``."""

from __future__ import annotations

from fastapi import FastAPI

from lending.api import router

__all__ = ["create_app"]


def create_app() -> FastAPI:
    """Return the application."""
    app = FastAPI(title="lending")
    app.include_router(router)
    return app
