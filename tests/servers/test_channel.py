"""Messages between a test process and its supervisor: plain data, read by nobody else."""

from __future__ import annotations

import marshal
import os
import pickle
import sys
import unittest
from contextlib import suppress

import psutil

from dbtestcase.servers import ThrowawayPostgres, running_instance
from dbtestcase.servers.supervisor.channel import Reader, Unreadable, encode
from dbtestcase.servers.supervisor_client import current_supervisor

MESSAGE = {
    "none": None,
    "true": True,
    "false": False,
    "number": -(2**70),
    "float": 0.1,
    "text": "größe\udcff;",
    "": "",
    "list": ["a", [], {}],
    "dict": {"b": {"c": [1, 2.5]}},
}


def open_files(pid: int) -> set[str]:
    """Return what a process has open, as /proc names it; nothing if it has ended."""
    found = set()
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile, or the process has ended
                found.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return found


class FormatTests(unittest.TestCase):
    def test_plain_data_come_back_as_they_were(self):
        self.assertEqual(Reader().feed(encode(MESSAGE)), [MESSAGE])

    def test_messages_are_put_together_wherever_they_were_cut(self):
        reader = Reader()
        found = []
        for byte in encode(MESSAGE) + encode({"second": 2}):
            found += reader.feed(bytes([byte]))

        self.assertEqual(found, [MESSAGE, {"second": 2}])

    def test_nothing_but_plain_data_is_sent(self):
        for value in (object(), {1, 2}, b"bytes", print):
            with self.subTest(value), self.assertRaises(TypeError):
                encode({"value": value})

    def test_what_is_no_message_is_refused(self):
        bodies = [
            marshal.dumps({"id": 1}),
            pickle.dumps({"id": 1}),
            b"i1;",
            b"d",
            b"ds1;",
            b"l" * 100,
            b"s99999;x",
            b"",
        ]
        bodies += [b"s99999;x", b"ds1;ai1;", b"di1;i1;e", b"ix;", b"s-5;abc", b"dxe", encode({"a": 1})[4:] + b"n"]
        for body in bodies:
            with self.subTest(body), self.assertRaises(Unreadable):
                Reader().feed(len(body).to_bytes(4, "big") + body)

    def test_a_length_that_nobody_could_mean_is_refused_at_once(self):
        with self.assertRaises(Unreadable):
            Reader().feed(b"\xff\xff\xff\xff")


@unittest.skipUnless(sys.platform.startswith("linux"), "looks into /proc")
class InheritanceTests(unittest.TestCase):
    def test_no_server_inherits_the_channel(self):
        with running_instance(ThrowawayPostgres()) as instance:
            channel = os.readlink(f"/proc/{current_supervisor().supervisor_pid}/fd/3")
            server = psutil.Process(instance.server_pid)
            # Not of all children of the supervisor: one that has just been forked has yet to close what it inherited.
            inherited = {link for process in (server, *server.children()) for link in open_files(process.pid)}

            self.assertEqual(server.ppid(), current_supervisor().supervisor_pid)
        self.assertTrue(channel.startswith("socket:"))
        self.assertNotEqual(inherited, set())
        self.assertNotIn(channel, inherited)

    def test_no_process_of_a_test_inherits_it(self):
        with running_instance(ThrowawayPostgres()):
            supervisor = current_supervisor()
            sockets = [supervisor._connection._incoming.socket(), supervisor._connection._outgoing.socket()]

            self.assertEqual([os.get_inheritable(each.fileno()) for each in sockets], [False, False])
