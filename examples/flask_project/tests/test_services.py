"""The services, called as the views and the command line call them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from studies import services
from studies.models import Group, Participant, StudySession, Trial, TrialState, trial_groups

from .support import AppTestCase


class EnrolmentTests(AppTestCase):
    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        session.add(Participant(name="Ada"))

    def test_enrolling_adds_a_participant(self) -> None:
        grace = services.enrol("Grace")

        self.assertPersistent(grace)
        self.assertRowCount(Participant, 2)

    def test_a_taken_name_is_refused(self) -> None:
        with self.assertRaisesRegex(services.Refused, "'Ada' is taken"):
            services.enrol("Ada")

        self.assertRowCount(Participant, 1)

    def test_a_refusal_keeps_what_was_committed_before(self) -> None:
        services.enrol("Grace")

        # The service rolls back after PostgreSQL's error, and rolls back only its own work.
        with self.assertRaises(services.Refused):
            services.enrol("Ada")

        self.assertRowExists(Participant, name="Grace")

    def test_withdrawing_deletes_all_that_was_measured(self) -> None:
        grace = services.enrol("Grace")
        services.start_session(grace, [[], []])

        services.withdraw(grace)

        self.assertDetached(grace)
        self.assertRowCount(StudySession, 0)
        self.assertRowCount(Trial, 0)


class SessionTests(AppTestCase):
    ada: Participant

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.ada = Participant(name="Ada")
        session.add_all([cls.ada, Group(name="control"), Group(name="noise")])

    def test_a_session_begins_with_its_first_trial(self) -> None:
        visit = services.start_session(self.ada, [["control"], ["control", "noise"]])

        self.assertEqual([trial.position for trial in visit.trials], [1, 2])
        self.assertIs(visit.current_trial, visit.trials[0])
        self.assertRowCount(trial_groups, 3)

    def test_a_session_with_an_unknown_group_is_refused(self) -> None:
        with self.assertRaisesRegex(services.Refused, "no group 'silence'"):
            services.start_session(self.ada, [["control"], ["silence"]])

        self.assertRowCount(StudySession, 0)

    def test_recording_a_value_moves_the_session_on_to_the_next_trial(self) -> None:
        visit = services.start_session(self.ada, [["control"], ["noise"]])
        trial = services.claim_next_trial("station 1")

        services.record_value(trial, 1.5)

        self.assertRowExists(Trial, id=trial.id, state=TrialState.DONE, value=1.5, station="station 1")
        self.assertEqual(visit.current_trial.position, 2)

    def test_a_value_for_a_trial_that_is_not_running_is_refused(self) -> None:
        visit = services.start_session(self.ada, [["control"]])

        with self.assertRaisesRegex(services.Refused, "waiting, not running"):
            services.record_value(visit.trials[0], 1.5)


class EngineTests(AppTestCase):
    """Services that go to the engine, past the session, are undone like all others."""

    old: StudySession
    new: StudySession

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        ada = Participant(name="Ada")
        control, noise = Group(name="control"), Group(name="noise")
        cls.old = StudySession(
            participant=ada,
            started_at=datetime.now(UTC) - timedelta(days=30),
            trials=[
                Trial(position=1, state=TrialState.DONE, value=1.0, groups=[control]),
                Trial(position=2, state=TrialState.DONE, value=2.0, groups=[control]),
                Trial(position=3, groups=[control, noise]),
            ],
        )
        cls.new = StudySession(participant=ada, trials=[Trial(position=1, groups=[noise])])
        session.add_all([cls.old, cls.new])

    def test_only_what_waits_in_old_sessions_is_skipped(self) -> None:
        skipped = services.skip_overdue(timedelta(days=7))

        self.assertEqual(skipped, 1)
        self.assertRowExists(Trial, session_id=self.old.id, position=3, state=TrialState.SKIPPED)
        self.assertRowExists(Trial, session_id=self.new.id, position=1, state=TrialState.WAITING)

    def test_the_engine_sees_what_the_session_committed(self) -> None:
        self.new.started_at = self.old.started_at
        self.session.commit()

        self.assertEqual(services.skip_overdue(timedelta(days=7)), 2)

    def test_the_summary_counts_measured_trials_only(self) -> None:
        self.assertEqual(services.summarize_groups(), [("control", 2, 1.5), ("noise", 0, None)])
