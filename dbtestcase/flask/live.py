"""A server on this machine's loopback address that answers with an application, a thread for each request.

Knows werkzeug and threads; knows nothing of databases and tests.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from socketserver import TCPServer
from time import monotonic
from typing import Any

from flask import Flask, got_request_exception
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from dbtestcase.frames import UNKNOWN, user_origin

__all__ = ["LiveServer"]

_HOST = "127.0.0.1"


class LiveServer:
    """Serves whatever application there is at the moment of a request.

    It begins to listen when it is made, and accepts requests between :meth:`admit` and :meth:`finish`; at other times
    they are answered with 503, Service Unavailable.

    Attributes:
        url: Its address, without a slash at the end.

    Args:
        application: Returns the present application, ``None`` if there is none.
        no_application: What to answer then.
    """

    def __init__(self, application: Callable[[], Flask | None], no_application: str) -> None:
        self._application = application
        self._no_application = no_application
        self._changed = threading.Condition()
        self._is_admitting = False
        self._answering: dict[threading.Thread, str] = {}
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._errors: list[tuple[str, BaseException]] = []
        self._server = _Server(self)
        self.url = f"http://{_HOST}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.accept, name="dbtestcase live server", daemon=True)
        got_request_exception.connect(self._note_exception)
        self._thread.start()

    def admit(self) -> None:
        """Begin to accept requests, and forget the errors of earlier ones."""
        with self._changed:
            self._errors.clear()
            self._is_admitting = True

    def finish(self, bound: float) -> list[str]:
        """Accept no more requests and wait for those that are being answered.

        Args:
            bound: Longest wait for all of them together, in seconds.

        Returns:
            A text for each request that is still being answered, with the line that it is at.
        """
        deadline = monotonic() + bound
        with self._changed:
            self._is_admitting = False
            # What a browser has opened ahead and sent nothing on yet would never end by itself.
            self._hang_up(each for each in self._connections if each not in self._answering)
            while self._connections and (left := deadline - monotonic()) > 0:
                self._changed.wait(left)
            return [_described(thread, request) for thread, request in self._answering.items()]

    def stop(self, bound: float) -> list[str]:
        """Accept no more connections and end all there are; returns what :meth:`finish` does."""
        self._server.stop_accepting()
        self._thread.join()
        self._server.server_close()
        got_request_exception.disconnect(self._note_exception)
        with self._changed:
            self._hang_up(self._connections)  # to write its answer is an error now, by which many a view ends
        return self.finish(bound)

    def errors(self, redact: Callable[[BaseException], object]) -> list[str]:
        """Return a text for each request since :meth:`admit` that ended in an exception.

        Args:
            redact: Takes out of an exception what nobody may read.
        """
        with self._changed:
            errors = list(self._errors)
        for _, error in errors:
            redact(error)
        return list(dict.fromkeys(f"{request} ended in an error:\n{_traceback(error)}" for request, error in errors))

    # -- called by the threads of connections

    def connected(self, thread: threading.Thread, connection: socket.socket) -> None:
        with self._changed:
            self._connections[thread] = connection

    def disconnected(self) -> None:
        with self._changed:
            self._connections.pop(threading.current_thread(), None)
            self._changed.notify_all()

    def begin_request(self, request: str) -> bool:
        """Return whether the request is to be answered."""
        with self._changed:
            if self._is_admitting:
                self._answering[threading.current_thread()] = request
            return self._is_admitting

    def end_request(self) -> None:
        with self._changed:
            self._answering.pop(threading.current_thread(), None)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        application = self._application()
        if application is None:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")])
            return [self._no_application.encode()]
        # Flask says what a view raises; the rest is of what the application is wrapped in, or of a body being made.
        with self._noting_exceptions(application):
            body = application(environ, start_response)
        return self._parts(application, body)

    def _parts(self, application: Flask, body: Iterable[bytes]) -> Iterator[bytes]:
        try:
            with self._noting_exceptions(application):
                yield from body
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    @contextlib.contextmanager
    def _noting_exceptions(self, application: Flask) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._note_exception(application, error)
            raise

    def _note_exception(self, sender: Flask, exception: BaseException, **_: Any) -> None:
        with self._changed:
            request = self._answering.get(threading.current_thread())
            if request is not None:  # else of a request that a test client makes
                self._errors.append((request, exception))

    def _hang_up(self, threads: Iterable[threading.Thread]) -> None:
        for thread in threads:
            with contextlib.suppress(OSError):  # the other end was faster
                self._connections[thread].shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    server: _Server

    def run_wsgi(self) -> None:
        if not self.server.live.begin_request(f"{self.command} {self.path.partition('?')[0]}"):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "No test is running")
            return
        try:
            super().run_wsgi()
        finally:
            self.server.live.end_request()

    def log(self, type: str, message: str, *args: Any) -> None:
        """Write nothing about requests."""


class _Server(ThreadedWSGIServer):
    daemon_threads = True  # a request that hangs must not keep the process from ending

    def __init__(self, live: LiveServer) -> None:
        self.live = live
        self._is_stopping = False
        super().__init__(_HOST, 0, live, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would ask for the name of the address, which can take seconds where no name server answers.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = _HOST, self.server_address[1]

    def accept(self) -> None:
        # Not serve_forever(), which looks from time to time whether it is to end: the class would wait for that.
        while not self._is_stopping:
            self.handle_request()

    def stop_accepting(self) -> None:
        self._is_stopping = True
        with contextlib.suppress(OSError):
            socket.create_connection((_HOST, self.server_port), timeout=1).close()  # wakes the accepting thread

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return not self._is_stopping

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="request to the live server",
            daemon=True,
        )
        self.live.connected(thread, request)
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.live.disconnected()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing about clients that break off."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Write nothing: errors are shown with the test that fails."""


def _described(thread: threading.Thread, request: str) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    line = user_origin(frame) if frame is not None else UNKNOWN
    return request if line is UNKNOWN else f"{request} (it is at {line})"


def _traceback(error: BaseException) -> str:
    """Return the traceback from the first line of the user's on, without what leads to it."""
    first = error.__traceback__
    while first is not None and user_origin(first.tb_frame) is UNKNOWN:
        first = first.tb_next
    lines = traceback.format_exception(type(error), error, first or error.__traceback__)
    return "".join(lines).rstrip()
