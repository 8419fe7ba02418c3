"""The pages, with the browser's cookie: ``self.client`` keeps it from request to request."""

from __future__ import annotations

from flask import g
from sqlalchemy.orm import Session

from studies.models import Group, Participant, StudySession, Trial, TrialState

from .support import AppTestCase


class PageTests(AppTestCase):
    ada: Participant

    @classmethod
    def setUpTestData(cls, session: Session) -> None:
        cls.ada = Participant(name="Ada <3")
        measured = Trial(position=1, state=TrialState.DONE, value=1.25, groups=[Group(name="control")])
        session.add(StudySession(participant=cls.ada, trials=[measured, Trial(position=2)]))

    def act_as(self, participant: Participant) -> None:
        response = self.client.post("/act-as", data={"participant": participant.id})
        self.assertEqual(response.location, "/sessions")

    def test_the_first_page_lists_the_participants(self) -> None:
        response = self.client.get("/")

        self.assertIn("Act as Ada &lt;3", response.text)

    def test_somebody_who_has_chosen_nobody_is_sent_to_the_first_page(self) -> None:
        response = self.client.get("/sessions")

        self.assertEqual(response.location, "/")

    def test_a_participant_sees_how_far_the_sessions_have_come(self) -> None:
        self.act_as(self.ada)

        response = self.client.get("/sessions")

        self.assertIn("You act as Ada &lt;3 now.", response.text)
        self.assertIn("1 of 2 trials measured", response.text)

    def test_a_request_can_be_looked_into_after_its_response(self) -> None:
        self.act_as(self.ada)

        with self.client:
            self.client.get("/sessions")

            self.assertEqual(g.participant.id, self.ada.id)

    def test_leaving_forgets_the_participant(self) -> None:
        self.act_as(self.ada)

        self.client.post("/leave")

        self.assertEqual(self.client.get("/sessions").location, "/")

    def test_a_participant_who_was_deleted_meanwhile_is_forgotten_too(self) -> None:
        self.act_as(self.ada)
        self.session.delete(self.ada)
        self.session.commit()

        self.assertEqual(self.client.get("/sessions").location, "/")

    def test_choosing_somebody_who_does_not_exist_shows_an_error_page(self) -> None:
        response = self.client.post("/act-as", data={"participant": "nobody"})

        self.assertEqual(response.status_code, 400)
        self.assertIn("choose a participant from the list", response.text)

    def test_the_groups_page_shows_their_means(self) -> None:
        response = self.client.get("/groups")

        self.assertIn("<tr><td>control</td><td>1</td><td>1.25</td></tr>", response.text)
