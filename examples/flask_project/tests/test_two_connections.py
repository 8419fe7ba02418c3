"""Code that needs more than one connection, or a commit that others can see.

Otherwise all of a test happens on one connection that is rolled back. With ``isolation = "clone"`` each test gets a
private copy of the class's database, commits for real, and opens as many connections as it wants.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text
from sqlalchemy.orm import Session

from studies import services
from studies.database import db
from studies.models import Participant, StudySession, Trial, TrialState

from .support import AppTestCase


class ClaimingTests(AppTestCase):
    isolation = "clone"

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        trials = [Trial(position=position) for position in range(1, 7)]
        session.add(StudySession(participant=Participant(name="Ada"), trials=trials))

    def claim_position(self, station: str) -> int:
        with self.app.app_context():  # each thread its own, and with it a session and a connection
            trial = services.claim_next_trial(station)
            return trial.position

    def test_a_trial_that_another_station_is_claiming_is_passed_over(self) -> None:
        with Session(db.engine) as other_station:
            locked = other_station.scalars(services.next_waiting_trial()).one()

            claimed = services.claim_next_trial("station 2")  # does not wait for the other's commit

            self.assertEqual((locked.position, claimed.position), (1, 2))

    def test_no_two_of_six_stations_claim_the_same_trial(self) -> None:
        stations = [f"station {number}" for number in range(6)]

        with ThreadPoolExecutor(len(stations)) as pool:
            positions = list(pool.map(self.claim_position, stations))

        self.assertEqual(sorted(positions), [1, 2, 3, 4, 5, 6])
        self.assertRowCount(Trial, 6, Trial.state == TrialState.RUNNING)

    def test_another_connection_sees_rows_only_once_they_are_committed(self) -> None:
        count = text("SELECT count(*) FROM participant WHERE name = 'Grace'")
        self.session.add(Participant(name="Grace"))
        self.session.flush()

        with db.engine.connect() as other:
            self.assertEqual(other.scalar(count), 0)
            self.session.commit()
            self.assertEqual(other.scalar(count), 1)
