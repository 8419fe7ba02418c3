"""The application as a server: spoken to over HTTP, as stations and scripts do it."""

from __future__ import annotations

import json
from typing import Any
from urllib.request import Request, urlopen

from sqlalchemy.orm import Session

from studies.models import Group, Participant, StudySession, Trial, TrialState

from .support import LiveAppTestCase


class StationTests(LiveAppTestCase):
    trial: Trial

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        control = Group(name="control")
        cls.trial = Trial(position=1, groups=[control])
        session.add(StudySession(participant=Participant(name="Ada"), trials=[cls.trial]))

    def call(self, method: str, path: str, body: object) -> dict[str, Any]:
        data = json.dumps(body).encode()
        request = Request(self.live_server_url + path, data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def test_a_station_claims_a_trial_and_records_its_value(self) -> None:
        claimed = self.call("POST", "/api/trials/claim", {"station": "station 1"})
        self.call("PUT", f"/api/trials/{claimed['id']}/value", {"value": 1.5})

        # Read again: this session has not been told what the requests did.
        self.session.refresh(self.trial)
        self.assertEqual((self.trial.state, self.trial.value), (TrialState.DONE, 1.5))

    def test_a_station_sees_what_the_test_commits(self) -> None:
        self.trial.station = "station 2"
        self.session.commit()

        claimed = self.call("POST", "/api/trials/claim", {"station": "station 1"})

        self.assertEqual(claimed["id"], self.trial.id)
