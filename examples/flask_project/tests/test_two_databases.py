"""Two binds: the measurements, and the audit log in a database of its own."""

from __future__ import annotations

from sqlalchemy import inspect

from studies import services
from studies.database import db
from studies.models import AuditEntry, Participant

from .support import AppTestCase


class AuditLogTests(AppTestCase):
    def test_1_a_service_writes_to_both_databases(self) -> None:
        services.enrol("Ada")

        self.assertRowExists(Participant, name="Ada")
        self.assertRowExists(AuditEntry, action="enrolled", participant="Ada")

    def test_2_both_writes_are_gone_in_the_next_test(self) -> None:
        self.assertRowCount(Participant, 0)
        self.assertRowCount(AuditEntry, 0)

    def test_a_refused_enrolment_leaves_no_audit_entry(self) -> None:
        services.enrol("Ada")

        with self.assertRaises(services.Refused):
            services.enrol("Ada")

        self.assertRowCount(AuditEntry, 1)

    def test_the_audit_log_remembers_who_withdrew(self) -> None:
        services.withdraw(services.enrol("Ada"))

        self.assertRowAbsent(Participant, name="Ada")
        self.assertRowExists(AuditEntry, action="withdrew", participant="Ada")

    def test_each_database_has_the_tables_of_its_own_models(self) -> None:
        self.assertIn("participant", inspect(db.engine).get_table_names())
        self.assertEqual(inspect(db.engines["audit"]).get_table_names(), ["audit_entry"])
