"""Django's ``TestCase`` on the server that the others use, with a model of the same table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

from benchmarks.cases import Bodied, repeated
from benchmarks.servers import OneServer

_DATABASE: dict[str, Any] = {"ENGINE": "django.db.backends.postgresql", "USER": "postgres", "NAME": "test"}

settings.configure(
    DATABASES={"default": _DATABASE}, INSTALLED_APPS=[], USE_TZ=False, DEFAULT_AUTO_FIELD="django.db.models.AutoField"
)
django.setup()

from django.db import connections, models, transaction  # noqa: E402
from django.test import TestCase  # noqa: E402


class Item(models.Model):
    """The table that the tests write to."""

    name = models.TextField()

    class Meta:
        app_label = "benchmarks"
        db_table = "item"


def read(session: None = None) -> int:
    """Count."""
    return Item.objects.count()


def write(session: None = None) -> int:
    """Insert, commit, count."""
    with transaction.atomic():
        Item.objects.create(name="Ada")
    return read()


def write_three_times(session: None = None) -> int:
    """Insert and commit three times, count."""
    for name in ("Ada", "Grace", "Mary"):
        with transaction.atomic():
            Item.objects.create(name=name)
    return read()


BODIES: dict[str, Callable[[None], int]] = {
    "read": read,
    "write": write,
    "write with three commits": write_three_times,
}


def use(databases: OneServer) -> None:
    """Point Django to the server."""
    engine = databases.start()
    where = {"HOST": engine.url.query.get("host"), "PORT": engine.url.query.get("port")}
    _DATABASE.update(where)
    connections["default"].settings_dict.update(where)
    databases.stop(engine)


def disconnect() -> None:
    """Close Django's connection."""
    connections.close_all()


def test_class(
    databases: OneServer, untouched: type, body: Callable[[None], int] | None, number: int, expected: int | None
) -> type[TestCase]:
    """Return a class whose tests run the body; those of ``untouched`` if there is none."""
    use(databases)
    tests = untouched if body is None else repeated(Bodied, number)
    return type("Theirs", (tests, TestCase), {"body": body, "session": None, "expected": expected})
