"""The commands, through Flask's runner. A command has a session of its own, like a request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import inspect

from studies.database import db
from studies.models import Group, Participant, StudySession, Trial, TrialState

from .support import AppTestCase


class CommandTests(AppTestCase):
    def run_command(self, *args: str) -> str:
        result = self.app.test_cli_runner().invoke(args=args, catch_exceptions=False)
        self.assertEqual(result.exit_code, 0, result.output)
        return result.output

    def test_add_groups_adds_those_that_are_missing(self) -> None:
        self.session.add(Group(name="control"))
        self.session.commit()

        output = self.run_command("add-groups", "control", "noise")

        self.assertEqual(output, "groups added: 1\n")
        self.assertRowCount(Group, 2)

    def test_skip_overdue_takes_the_age_in_days(self) -> None:
        ten_days_ago = datetime.now(UTC) - timedelta(days=10)
        visit = StudySession(participant=Participant(name="Ada"), started_at=ten_days_ago, trials=[Trial(position=1)])
        self.session.add(visit)
        self.session.commit()

        self.assertEqual(self.run_command("skip-overdue", "--days", "14"), "trials skipped: 0\n")
        self.assertEqual(self.run_command("skip-overdue"), "trials skipped: 1\n")
        self.assertEqual(visit.trials[0].state, TrialState.SKIPPED)

    def test_create_audit_log_makes_the_table_that_is_missing(self) -> None:
        db.drop_all(bind_key="audit")  # undone after the test, like everything else

        self.run_command("create-audit-log")

        self.assertEqual(inspect(db.engines["audit"]).get_table_names(), ["audit_entry"])
