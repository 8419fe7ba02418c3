"""A running test class whose application is served to browsers."""

from __future__ import annotations

from typing import Any

from flask import Flask

from dbtestcase.diagnosis.leftovers import warn_left_open
from dbtestcase.flask.live import LiveServer
from dbtestcase.flask.running import RunningFlaskClass
from dbtestcase.lifecycle.names import id_of

__all__ = ["RunningLiveServerClass"]

# Seconds that requests have to come to their end, after each test and once more at the end of the class.
_BOUND = 5.0


class RunningLiveServerClass(RunningFlaskClass):
    """Serves the application of the present test, or of the class while no test has begun.

    The requests of a test end with it: those that come later would work on the database of the next one.
    """

    def redirect_application(self) -> None:
        super().redirect_application()
        name = self._class.__qualname__
        server = self._server = LiveServer(
            self._present_application,
            f"{name} has no application to serve: return it from create_app, or set self.app in setUp.",
        )
        self._undo.callback(self._stop_server)
        self._class.live_server_url = server.url
        self._undo.callback(delattr, self._class, "live_server_url")
        server.admit()  # for setUpClass and setUpTestData

    def use_copies(self) -> None:
        self._finish_requests("the test began")  # copies are made of a database that nobody uses
        super().use_copies()

    def begin_test(self, test: Any) -> None:
        super().begin_test(test)
        self._server.admit()

    def leave_test(self, test: Any) -> None:
        self._finish_requests(f"{id_of(test)} had ended")
        super().leave_test(test)

    def explain(self, test: Any, error: BaseException) -> bool:
        is_new = super().explain(test, error)
        for text in self._server.errors(self.explanations.redact):
            error.add_note(f"The live server, while the test was running: {text}")
        return is_new

    def _present_application(self) -> Flask | None:
        app = getattr(self.runs.test or self._class, "app", None)
        return app if isinstance(app, Flask) else None

    def _finish_requests(self, event: str) -> None:
        for request in self._server.finish(_BOUND):
            warn_left_open(
                f"{self._class.__qualname__}: the live server was still answering {request} {_BOUND:g} seconds "
                f"after {event}, and goes on without it; its statements from now on are errors. Let the test wait for "
                "the response, or let the code under test end sooner."
            )

    def _stop_server(self) -> None:
        for request in self._server.stop(_BOUND):
            warn_left_open(
                f"{self._class.__qualname__}: the live server has ended, but the thread that answers {request} "
                f"has not, {_BOUND:g} seconds later. It ends with the process at the latest."
            )
