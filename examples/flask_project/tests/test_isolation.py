"""What each test can rely on."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from studies import services
from studies.database import db
from studies.models import Group, Participant, StudySession, Trial

from .support import AppTestCase


class EachTestStartsCleanTests(AppTestCase):
    # unittest runs the tests of a class in the order of their names.

    def test_1_a_commit_lasts_for_the_rest_of_the_test(self) -> None:
        services.enrol("Grace")

        self.assertRowExists(Participant, name="Grace")

    def test_2_the_next_test_sees_nothing_of_it(self) -> None:
        self.assertRowAbsent(Participant, name="Grace")

    def test_rollback_takes_back_what_was_not_committed_and_no_more(self) -> None:
        self.session.add(Participant(name="Grace"))
        self.session.commit()
        self.session.add(Participant(name="Alan"))
        self.session.flush()

        self.session.rollback()

        self.assertRowExists(Participant, name="Grace")
        self.assertRowAbsent(Participant, name="Alan")

    def test_self_session_is_the_session_of_the_code_under_test(self) -> None:
        self.assertIs(self.session, db.session())

    def test_the_configured_database_is_never_connected_to(self) -> None:
        self.assertIn("production.invalid", self.app.config["SQLALCHEMY_DATABASE_URI"])

        # No such name exists on any network: what answers is another server.
        self.assertEqual(self.session.scalar(select(1)), 1)


class ClassDataTests(AppTestCase):
    ada: Participant
    control: Group
    trials: list[Trial]
    visit: StudySession

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        """Called once. Each test gets copies of its own of what is kept on the class."""
        cls.ada = Participant(name="Ada")
        cls.control = Group(name="control")
        cls.trials = [Trial(position=1, groups=[cls.control]), Trial(position=2)]
        cls.visit = StudySession(participant=cls.ada, trials=cls.trials, current_trial=cls.trials[0])
        session.add(cls.visit)

    def test_1_changes_and_commits_an_object_of_the_class(self) -> None:
        self.ada.name = "Augusta"
        self.session.commit()

        self.assertRowExists(Participant, name="Augusta")

    def test_2_finds_the_object_and_its_row_as_they_were_made(self) -> None:
        self.assertEqual(self.ada.name, "Ada")
        self.assertRowExists(Participant, name="Ada")

    def test_the_objects_are_persistent_in_the_session_of_the_test(self) -> None:
        self.assertPersistent(self.ada)
        self.assertIs(self.session.get(Participant, self.ada.id), self.ada)

    def test_objects_that_refer_to_each_other_still_do(self) -> None:
        self.assertIs(self.visit.participant, self.ada)
        self.assertIs(self.visit.current_trial, self.trials[0])
        self.assertIs(self.trials[0].session, self.visit)
        self.assertEqual(self.trials[0].groups, [self.control])
