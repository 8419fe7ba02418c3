"""Notes that are kept with prepared contents, whichever way an instance comes by them."""

from __future__ import annotations

from dbtestcase.servers import EMPTY, Contents, ThrowawayPostgres, expect, running_instance
from tests.servers.support import ScratchTestCase, changed_environment
from tests.support import once

OPTIONS = ThrowawayPostgres()
NOTES = {"volatile": ["next_number"], "größe": {"tables": 2}}

TAKE_NOTES = """
from dbtestcase.servers import *
def prepare(instance):
    print("prepared")
    instance.execute("CREATE TABLE t ()", database="test")
    return {"volatile": ["next_number"], "tables": 2}
with running_instance(ThrowawayPostgres(), Contents("noted", prepare)) as instance:
    print(instance.notes)
"""


class NotesTests(ScratchTestCase):
    def setUp(self):
        super().setUp()
        changed_environment(self, {"DBTESTCASE_DIR": self.location, "DBTESTCASE_CACHE": self.scratch / "cache"})

    def notes_of(self, contents: Contents) -> list[dict[str, object]]:
        """Return what two instances have, one after the other."""
        notes = []
        for _ in range(2):
            with running_instance(OPTIONS, contents) as instance:
                notes.append(instance.notes)
        return notes

    @once
    def test_another_process_finds_them_in_the_cache(self):
        cache = self.scratch / "cache"

        first = self.run_well(TAKE_NOTES, DBTESTCASE_CACHE=cache)
        second = self.run_well(TAKE_NOTES, DBTESTCASE_CACHE=cache)

        self.assertEqual(first, f"prepared\n{second}")
        self.assertEqual(second, "{'volatile': ['next_number'], 'tables': 2}")

    def test_contents_with_a_fingerprint_have_them_each_time(self):
        contents = Contents("noted", lambda instance: NOTES)

        self.assertEqual(self.notes_of(contents), [NOTES, NOTES])

    def test_contents_that_only_this_process_knows_have_them_each_time(self):
        contents = Contents(None, lambda instance: NOTES, token=object())

        self.assertEqual(self.notes_of(contents), [NOTES, NOTES])

    def test_contents_that_are_made_anew_each_time_have_them(self):
        contents = Contents(None, lambda instance: NOTES)

        self.assertEqual(self.notes_of(contents), [NOTES, NOTES])

    def test_the_standby_has_them_whether_it_prepared_the_contents_or_not(self):
        contents = Contents(None, lambda instance: NOTES, token=object())

        for _ in range(2):
            expect(OPTIONS, contents)
            with running_instance(OPTIONS, contents) as instance:
                self.assertEqual(instance.notes, NOTES)

    def test_what_somebody_does_to_them_reaches_nobody_else(self):
        contents = Contents("noted", lambda instance: NOTES)
        with running_instance(OPTIONS, contents) as instance:
            instance.notes["volatile"].append("mine")

        self.assertEqual(self.notes_of(contents), [NOTES, NOTES])

    def test_without_any_there_is_an_empty_dict(self):
        self.assertEqual(self.notes_of(Contents("silent", lambda instance: None)), [{}, {}])

    def test_an_empty_database_has_what_its_functions_do(self):
        for notes in self.notes_of(EMPTY):
            self.assertIn("pg_notify", notes["effects"]["test"]["volatile"])

    def test_extensions_in_an_empty_database_bring_functions(self):
        with running_instance(ThrowawayPostgres(extensions=("tablefunc",))) as instance:
            self.assertIn("normal_rand", instance.notes["effects"]["test"]["volatile"])

    def test_a_server_that_starts_again_keeps_them(self):
        with running_instance(OPTIONS, Contents("noted", lambda instance: NOTES)) as instance:
            instance.terminate()
            instance.start()

            self.assertEqual(instance.notes, NOTES)
