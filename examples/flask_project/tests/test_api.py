"""The JSON endpoints, through ``self.client``. A request has a session of its own, as in production."""

from __future__ import annotations

from sqlalchemy.orm import Session

from studies.models import Group, Participant, StudySession, Trial, TrialState

from .support import AppTestCase


class ParticipantApiTests(AppTestCase):
    ada: Participant

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.ada = Participant(name="Ada")
        session.add(cls.ada)

    def test_a_request_sees_rows_that_the_test_committed(self) -> None:
        self.session.add(Participant(name="Grace"))
        self.session.commit()

        response = self.client.get("/api/participants")

        self.assertEqual([each["name"] for each in response.json["participants"]], ["Ada", "Grace"])

    def test_the_test_sees_rows_that_a_request_committed(self) -> None:
        response = self.client.post("/api/participants", json={"name": "Grace"})

        self.assertEqual(response.status_code, 201)
        self.assertEqual(self.session.get(Participant, response.json["id"]).name, "Grace")

    def test_one_request_sees_what_another_committed_even_if_a_third_was_refused(self) -> None:
        self.client.post("/api/participants", json={"name": "Grace"})
        refused = self.client.post("/api/participants", json={"name": "Ada"})
        listed = self.client.get("/api/participants")

        self.assertEqual(refused.status_code, 409)
        self.assertEqual(refused.json, {"error": "the name 'Ada' is taken"})
        self.assertEqual([each["name"] for each in listed.json["participants"]], ["Ada", "Grace"])

    def test_objects_of_the_test_stay_usable_after_a_request(self) -> None:
        self.client.get("/api/participants")

        self.assertEqual(self.ada.name, "Ada")
        self.assertEqual(self.ada.sessions, [])

    def test_a_participant_can_withdraw(self) -> None:
        response = self.client.delete(f"/api/participants/{self.ada.id}")

        self.assertEqual(response.status_code, 204)
        self.assertRowCount(Participant, 0)

    def test_names_that_cannot_be_used_are_refused(self) -> None:
        for name in ("", "  ", "a" * 81, "Ada\0", "A\nda", 3, None):
            with self.subTest(name=name):
                response = self.client.post("/api/participants", json={"name": name})

                self.assertEqual(response.status_code, 400)
                self.assertIn("printable", response.json["error"])

    def test_a_participant_who_does_not_exist_is_answered_in_json(self) -> None:
        response = self.client.get("/api/participants/0/sessions")

        self.assertEqual(response.status_code, 404)
        self.assertIn("error", response.json)


class TrialApiTests(AppTestCase):
    ada: Participant

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.ada = Participant(name="Ada")
        session.add_all([cls.ada, Group(name="control"), Group(name="noise")])

    def test_a_session_is_measured_from_start_to_end(self) -> None:
        self.client.post(f"/api/participants/{self.ada.id}/sessions", json={"trials": [["control"], ["noise"]]})
        for value in (1.5, 2.5):
            claimed = self.client.post("/api/trials/claim", json={"station": "station 1"}).json
            self.client.put(f"/api/trials/{claimed['id']}/value", json={"value": value})
        nothing_left = self.client.post("/api/trials/claim", json={"station": "station 1"})

        self.assertEqual(nothing_left.status_code, 204)
        self.assertRowCount(Trial, 2, Trial.state == TrialState.DONE)
        self.assertRowExists(StudySession, participant_id=self.ada.id, current_trial_id=None)

    def test_a_plan_that_is_no_list_of_lists_is_refused(self) -> None:
        for plan in (None, 3, ["control"], [[3]]):
            with self.subTest(plan=plan):
                response = self.client.post(f"/api/participants/{self.ada.id}/sessions", json={"trials": plan})

                self.assertEqual(response.status_code, 400)

    def test_values_that_are_no_finite_number_are_refused(self) -> None:
        for body in ('{"value": "1.5"}', '{"value": true}', '{"value": NaN}', '{"value": -Infinity}', "[]"):
            with self.subTest(body=body):
                response = self.client.put("/api/trials/1/value", data=body, content_type="application/json")

                self.assertEqual(response.status_code, 400)
