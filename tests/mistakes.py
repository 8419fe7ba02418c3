"""Fifteen typical mistakes, each a test class that fails on purpose.

Not collected with the other tests: ``tests/test_mistakes.py`` runs them and holds the words that tell the user what to
do; ``python -m tests.mistakes`` writes ``docs/failures.md``, which shows how they really look.
"""

from __future__ import annotations

import threading

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from dbtestcase import DatabaseTestCase, ThrowawayPostgres
from dbtestcase.flask import FlaskDatabaseTestCase


class Base(DeclarativeBase):
    pass


class Participant(Base):
    __tablename__ = "participant"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    trials: Mapped[list[Trial]] = relationship(back_populates="participant")


class Trial(Base):
    __tablename__ = "trial"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
    participant_id: Mapped[int] = mapped_column(ForeignKey("participant.id"))
    participant: Mapped[Participant] = relationship(back_populates="trials")


db = SQLAlchemy(model_class=type("FlaskBase", (DeclarativeBase,), {}))


class Customer(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def create_app() -> Flask:
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg2://production.invalid/shop"
    db.init_app(app)

    @app.get("/customers")
    def customers():
        return {"names": db.session.scalars(select(Customer.name)).all()}

    @app.post("/customers/<name>")
    def add_customer(name):
        db.session.add(Customer(name=name))
        return {"name": name}  # and no commit()

    return app


class StudyTestCase(DatabaseTestCase):
    schema = Base

    @classmethod
    def setUpTestData(cls, session):
        session.add(Participant(name="daniel", trials=[Trial(number=1)]))


class SessionLeftOpenInAThread(StudyTestCase):
    isolation = "clone"
    lock_wait = 0.5

    def test_drop_all_waits_for_a_session_that_a_thread_left_open(self):
        has_read = threading.Event()

        def report():
            session = Session(self.engine)
            session.scalars(select(Participant)).all()
            self.addCleanup(session.close)
            has_read.set()

        thread = threading.Thread(target=report)
        thread.start()
        has_read.wait()
        thread.join()
        Base.metadata.drop_all(self.engine)


class CommitForgottenBeforeARequest(FlaskDatabaseTestCase):
    db = db

    @classmethod
    def create_app(cls):
        return create_app()

    def test_request_does_not_see_a_row_that_was_not_committed(self):
        db.session.add(Customer(name="Ada"))
        self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})


class FlushedBeforeARequest(FlaskDatabaseTestCase):
    db = db

    @classmethod
    def create_app(cls):
        return create_app()

    def test_request_does_not_see_a_row_that_was_only_flushed(self):
        db.session.add(Customer(name="Ada"))
        db.session.flush()
        self.assertEqual(self.client.get("/customers").json, {"names": ["Ada"]})


class ViewThatForgetsToCommit(FlaskDatabaseTestCase):
    db = db

    @classmethod
    def create_app(cls):
        return create_app()

    def test_a_row_that_the_application_has_added(self):
        self.client.post("/customers/Ada")
        self.assertRowExists(Customer, name="Ada")


class RowsOfAnEarlierTest(StudyTestCase):
    def test_1_adds_a_trial(self):
        self.session.add(Trial(number=7, participant=self.session.scalars(select(Participant)).one()))
        self.session.commit()

    def test_2_expects_it(self):
        trial = self.session.scalars(select(Trial).where(Trial.number == 7)).one()
        self.assertEqual(trial.participant.name, "daniel")


class NotNullViolated(StudyTestCase):
    def test_a_trial_without_a_participant(self):
        self.session.add(Trial(number=2))
        self.session.commit()


class LazyLoadAfterClose(StudyTestCase):
    def test_a_relationship_is_read_after_the_session_was_closed(self):
        with Session(self.engine) as session:
            participant = session.scalars(select(Participant)).one()
        self.assertEqual(len(participant.trials), 1)


class WrongTableName(StudyTestCase):
    def test_a_table_name_is_misspelled(self):
        self.session.execute(text("SELECT * FROM participants"))


class RolledBackFixture(StudyTestCase):
    def setUp(self):
        self.participant = Participant(name="ada")
        self.session.add(self.participant)
        self.session.flush()

    def test_the_code_under_test_rolls_back_what_set_up_did_not_commit(self):
        self.session.rollback()
        self.assertRowExists(Participant, name="ada")


class ConnectionLeakedInSetUpClass(StudyTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.connection = cls.engine.connect()
        cls.connection.execute(text("INSERT INTO participant (name) VALUES ('grace')"))

    def test_rows_of_a_connection_that_never_committed(self):
        self.assertRowExists(Participant, name="grace")


class CommitAsSql(StudyTestCase):
    isolation = "savepoint"

    def test_commit_is_sent_as_text(self):
        self.session.execute(text("INSERT INTO participant (name) VALUES ('grace')"))
        self.session.execute(text("COMMIT"))


class TwoSessionsDeadlocked(StudyTestCase):
    isolation = "clone"

    def test_two_sessions_lock_two_rows_in_turn(self):
        with self.engine.begin() as connection:
            connection.execute(text("INSERT INTO participant (name) VALUES ('grace')"))
        problems = []
        both = threading.Barrier(2)

        def rename(names):
            try:
                with Session(self.engine) as session:
                    for name in names:
                        session.execute(text("UPDATE participant SET name = name WHERE name = :name"), {"name": name})
                        if name == names[0]:
                            both.wait(60)
            except Exception as error:
                problems.append(error)

        threads = [
            threading.Thread(target=rename, args=(names,)) for names in (("daniel", "grace"), ("grace", "daniel"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        raise problems[0]


class SchemaThatDoesNotBuild(DatabaseTestCase):
    schema = MetaData()
    Table("trial", schema, Column("id", Integer, primary_key=True, server_default=text("next_number()")))

    def test_never_runs(self):
        pass


class NoServerPrograms(StudyTestCase):
    postgres = ThrowawayPostgres(bin_dir="/opt/no-such-postgresql/bin")

    def test_never_runs(self):
        pass


class ApplicationPointsElsewhere(StudyTestCase):
    def test_an_engine_that_nobody_declared(self):
        engine = create_engine("postgresql+psycopg2://app:secret@db.example.com/production")
        engine.connect()


if __name__ == "__main__":
    from tests.test_mistakes import write_document

    write_document()
