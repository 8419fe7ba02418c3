"""Processes in which something is not as usual: patched threads, signals, descriptors, clocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import unittest
from importlib.util import find_spec

from tests.servers.support import ScratchTestCase

USE = """
import time
from dbtestcase.servers import *
for _ in range(3):
    with running_instance(ThrowawayPostgres()) as instance:
        expect(ThrowawayPostgres(), EMPTY)
        instance.connect().close()
        assert instance.is_alive()
discard_standby()
print("used")
"""


COPIES = """
import unittest
from dbtestcase.case import DatabaseTestCase
class Shop(DatabaseTestCase):
    isolation = "clone"
    def test_1(self):
        self.session.connection().exec_driver_sql("CREATE TABLE customer (id integer)")
        self.session.commit()
    test_2 = test_3 = test_4 = test_1
assert unittest.main(argv=[""], exit=False).result.wasSuccessful()
print("used")
"""


class PatchedTestCase(ScratchTestCase):
    def assertUsed(self, code: str, **options: object) -> None:
        """Fail unless code runs to its end, in time, and leaves nothing."""
        result = subprocess.run(
            self.command(code),
            env=self.environment(),
            cwd="/",
            timeout=180,
            check=False,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},  # type: ignore[call-overload]
        )

        self.assertEqual(result.returncode, 0, result.stderr)
        if result.stdout is not None:
            self.assertEqual(result.stdout.strip().splitlines()[-1:], ["used"], result.stderr)
        self.assertSoon(lambda: not self.servers() and not self.folders(), 5, "something is left")


@unittest.skipIf(find_spec("gevent") is None, "needs gevent")
class GeventTests(PatchedTestCase):
    def test_patched_before_in_any_form(self):
        for form in (
            "",
            "thread=False",
            "subprocess=False, signal=False",
            "socket=False, dns=False",
            "os=False",
            "sys=True",
        ):
            with self.subTest(form):
                self.assertUsed(f"from gevent import monkey; monkey.patch_all({form})\n" + USE)

    def test_copies_are_made_whatever_of_threads_and_queues_is_patched(self):
        for form in ("", "thread=False", "queue=False"):
            with self.subTest(form):
                self.assertUsed(f"from gevent import monkey; monkey.patch_all({form})\n" + COPIES)

    def test_patched_after_the_library_was_imported(self):
        self.assertUsed("from dbtestcase.servers import *\nfrom gevent import monkey; monkey.patch_all()\n" + USE)

    def test_patched_between_two_instances(self):
        self.assertUsed(USE + "from gevent import monkey; monkey.patch_all()\n" + USE)

    def test_used_in_a_greenlet_beside_others(self):
        imports, *body = USE.replace("import *", "import ThrowawayPostgres, expect, running_instance, EMPTY").split(
            "for _"
        )
        body = "".join(f"    {line}\n" for line in ("for _" + body[0]).replace("discard_standby()", "").splitlines())
        self.assertUsed(
            "from gevent import monkey; monkey.patch_all()\nimport gevent\n"
            f"{imports}\ndef use():\n{body}\n"
            "gevent.joinall([gevent.spawn(use), gevent.spawn(use)], timeout=150, raise_error=True)\n"
        )


@unittest.skipIf(find_spec("eventlet") is None, "needs eventlet")
class EventletTests(PatchedTestCase):
    def test_patched_before_and_after(self):
        patch = "import warnings; warnings.simplefilter('ignore')\nimport eventlet; eventlet.monkey_patch()\n"
        for code in (patch + USE, "from dbtestcase.servers import *\n" + patch + USE):
            with self.subTest(code[:20]):
                self.assertUsed(code)


class SignalTests(PatchedTestCase):
    def test_children_whose_end_is_ignored(self):
        self.assertUsed("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + USE)

    def test_all_signals_ignored_and_blocked(self):
        self.assertUsed(
            "import signal\n"
            "for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:\n"
            "    try: signal.signal(number, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): pass\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n" + USE
        )

    def test_a_ctrl_c_for_the_whole_group_reaches_no_server(self):
        process = self.start(
            "import signal, sys\nsignal.signal(signal.SIGINT, lambda *_: None)\n"
            "from dbtestcase.servers import *\n"
            "with running_instance(ThrowawayPostgres()) as instance:\n"
            "    print(flush=True)\n"
            "    sys.stdin.readline()\n"
            "    print(instance.answers(), flush=True)\n",
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self.addCleanup(process.stdin.close)
        process.stdout.readline()

        os.killpg(process.pid, signal.SIGINT)
        process.stdin.write("\n")
        process.stdin.flush()

        self.assertEqual(process.stdout.readline(), "True\n")


class DescriptorTests(PatchedTestCase):
    def test_standard_input_and_output_closed(self):
        for closed in ("0", "0, 1", "0, 1, 2", "1, 2"):
            with self.subTest(closed):
                code = f"import os\nfor number in ({closed},): os.close(number)\n" + USE.replace('print("used")', "")
                self.assertUsed(code, stdout=None, stderr=None)

    def test_descriptors_closed_behind_our_back_and_used_for_files(self):
        # While a standby boots, which a stopped supervisor does not tell the end of; and when one is there. In between
        # it opens and closes files, and nobody can have all of these closed without harm.
        for stop, state in (("SIGSTOP", "standby._boot is None"), ("SIGCONT", "not standby.seconds")):
            with self.subTest(state):
                self.close_all(stop, state)

    def close_all(self, stop: str, state: str) -> None:
        """Close all descriptors and open files, once a standby is not in this state any more."""
        code = (
            USE
            + (
                "import gc, os, signal, tempfile\n"
                "from dbtestcase.servers import standby as standbys\n"
                "from dbtestcase.servers.supervisor_client import current_supervisor\n"
                "def close_all_and_open_files():\n"
                "    os.closerange(3, 256)\n"
                "    return [tempfile.TemporaryFile('w+', buffering=1) for _ in range(40)]\n"
                "with running_instance(ThrowawayPostgres()) as instance:\n"
                "    instance.connect().close()\n"
                "    pid = current_supervisor().supervisor_pid\n"
                f"    os.kill(pid, signal.{stop})\n"
                "    expect(ThrowawayPostgres(), EMPTY)\n"
                "    [(_, standby)] = standbys._standbys\n"
                f"    while {state}:\n"
                "        time.sleep(0.001)\n"
                "    files = close_all_and_open_files()\n"
                "    os.kill(pid, signal.SIGCONT)\n"
            )
            + USE
            + (
                "gc.collect()\n"
                "for number, file in enumerate(files):\n"
                "    file.write(f'mine {number}')\n"
                "    file.seek(0)\n"
                "    assert file.read() == f'mine {number}', number\n"
                "print('used')\n"
            )
        )
        self.assertUsed(code)

    def test_the_connection_of_tests_is_not_mistaken_for_a_socket_that_was_opened_in_its_place(self):
        sent = "self.session.connection().exec_driver_sql('SELECT 1')"
        for used_before in ("", "self.session.connection()", sent):
            with self.subTest(used_before):
                self.assertUsed(
                    "import os, socket, unittest\n"
                    "from dbtestcase.case import DatabaseTestCase\n"
                    "pairs = []\n"
                    "class Shop(DatabaseTestCase):\n"
                    "    def test_1(self):\n"
                    "        self.assertEqual(self.session.connection().exec_driver_sql('SELECT 1').scalar(), 1)\n"
                    "    def test_2(self):\n"
                    f"        {used_before}\n"
                    "        os.closerange(3, 256)\n"
                    "        pairs.extend(socket.socketpair() for _ in range(20))\n"
                    "    test_3 = test_4 = test_1\n"
                    "assert unittest.main(argv=[''], exit=False).result.wasSuccessful()\n"
                    "for one in (one for pair in pairs for one in pair):\n"
                    "    one.setblocking(False)\n"
                    "    try:\n"
                    "        raise AssertionError(one.recv(100))\n"
                    "    except BlockingIOError:\n"
                    "        pass\n"
                    "print('used')\n"
                )

    def test_descriptors_closed_and_used_for_sockets(self):
        code = (
            USE
            + ("import os, socket\nos.closerange(3, 256)\npairs = [socket.socketpair() for _ in range(30)]\n")
            + USE
            + (
                "for one, other in pairs:\n"
                "    for end in (one, other):\n"
                "        end.setblocking(False)\n"
                "        try: raise SystemExit(f'somebody wrote {end.recv(100)!r} into it')\n"
                "        except BlockingIOError: pass\n"
                "print('used')\n"
            )
        )
        self.assertUsed(code)


@unittest.skipIf(find_spec("freezegun") is None, "needs freezegun")
class ClockTests(PatchedTestCase):
    def test_frozen_in_the_past_and_in_the_future(self):
        for moment in ("2001-01-01", "2061-01-01"):
            with self.subTest(moment):
                freeze = f"from freezegun import freeze_time; freezer = freeze_time({moment!r}); freezer.start()\n"
                cache = self.scratch / f"cache{moment}"
                code = f"import os; os.environ['DBTESTCASE_CACHE'] = {str(cache)!r}\n"
                self.assertUsed(code + "from dbtestcase.servers import *\n" + freeze + USE)
                self.assertEqual(len(list(cache.glob("base-*.pack"))), 1)


@unittest.skipUnless(sys.platform.startswith("linux"), "spawn and fork are Linux's here")
class ChildTests(PatchedTestCase):
    def test_children_of_every_kind_have_instances_of_their_own(self):
        script = self.scratch / "children.py"
        script.write_text(
            "import multiprocessing, sys\n"
            "def work(pid):\n"
            "    from dbtestcase.servers import ThrowawayPostgres, running_instance\n"
            "    with running_instance(ThrowawayPostgres()) as instance:\n"
            "        instance.connect().close()\n"
            "        assert instance.server_pid != pid\n"
            "if __name__ == '__main__':\n"
            "    from dbtestcase.servers import ThrowawayPostgres, running_instance\n"
            "    with running_instance(ThrowawayPostgres()) as instance:\n"
            "        for method in ('fork', 'spawn', 'forkserver'):\n"
            "            child = multiprocessing.get_context(method).Process(target=work, args=[instance.server_pid])\n"
            "            child.start()\n"
            "            child.join(60)\n"
            "            assert child.exitcode == 0, method\n"
            "        assert instance.answers()\n"
        )

        result = subprocess.run(
            [sys.executable, script], env=self.environment(), capture_output=True, text=True, timeout=100, check=False
        )

        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertSoon(lambda: not self.servers() and not self.folders(), 5, "something is left")
