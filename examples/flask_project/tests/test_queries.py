"""How many statements a piece of code sends."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from studies import services
from studies.models import Group, Participant, StudySession, Trial

from .support import AppTestCase


class QueryCountTests(AppTestCase):
    ada: Participant

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.ada = Participant(name="Ada")
        control = Group(name="control")
        for _ in range(3):
            trials = [Trial(position=position, groups=[control]) for position in (1, 2)]
            session.add(StudySession(participant=cls.ada, trials=trials))

    def test_the_sessions_are_listed_with_four_queries_however_many_there_are(self) -> None:
        url = f"/api/participants/{self.ada.id}/sessions"

        with self.assertNumQueries(4):  # the participant, the sessions, their trials, the trials' groups
            response = self.client.get(url)

        self.assertEqual(len(response.json["sessions"]), 3)

    def test_no_query_is_sent_again_for_each_session(self) -> None:
        url = f"/api/participants/{self.ada.id}/sessions"

        with self.assertNoRepeatedQueries():
            self.client.get(url)

    def test_a_commit_counts_its_statements_and_nothing_else(self) -> None:
        self.session.add(Participant(name="Grace"))

        with self.assertNumQueries(1):  # the INSERT
            self.session.commit()

    def test_all_overdue_trials_are_skipped_with_one_statement(self) -> None:
        with self.assertNumQueries(1):
            services.skip_overdue(timedelta(days=7))

    def test_the_statements_can_be_read(self) -> None:
        with self.capture_queries() as queries:
            services.summarize_groups()

        self.assertIn("LEFT OUTER JOIN trial_groups", queries[0].sql)
