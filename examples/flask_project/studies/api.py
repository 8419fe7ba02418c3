"""The JSON endpoints, for measuring stations and scripts."""

from __future__ import annotations

import sys
from typing import Any

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from studies import services
from studies.database import db
from studies.models import Participant, StudySession, Trial

bp = Blueprint("api", __name__, url_prefix="/api")


@bp.get("/participants")
def list_participants() -> ResponseReturnValue:
    participants = db.session.scalars(select(Participant).order_by(Participant.name))
    return {"participants": [participant_json(participant) for participant in participants]}


@bp.post("/participants")
def enrol() -> ResponseReturnValue:
    return participant_json(services.enrol(text_field("name", longest=80))), 201


@bp.delete("/participants/<int:participant_id>")
def withdraw(participant_id: int) -> ResponseReturnValue:
    services.withdraw(db.get_or_404(Participant, participant_id))
    return "", 204


@bp.get("/participants/<int:participant_id>/sessions")
def list_sessions(participant_id: int) -> ResponseReturnValue:
    participant = db.get_or_404(Participant, participant_id)
    sessions = db.session.scalars(
        select(StudySession)
        .where(StudySession.participant == participant)
        .order_by(StudySession.id)
        # Without this: a query for the trials of each session, and one for the groups of each trial.
        .options(selectinload(StudySession.trials).selectinload(Trial.groups))
    )
    return {"sessions": [session_json(each) for each in sessions]}


@bp.post("/participants/<int:participant_id>/sessions")
def start_session(participant_id: int) -> ResponseReturnValue:
    plan = json_body().get("trials")
    if not (isinstance(plan, list) and all(is_list_of_names(names) for names in plan)):
        abort(400, description="'trials' must be a list with a list of group names for each trial")
    return session_json(services.start_session(db.get_or_404(Participant, participant_id), plan)), 201


@bp.post("/trials/claim")
def claim_trial() -> ResponseReturnValue:
    trial = services.claim_next_trial(text_field("station", longest=40))
    return ("", 204) if trial is None else trial_json(trial)


@bp.put("/trials/<int:trial_id>/value")
def record_value(trial_id: int) -> ResponseReturnValue:
    value = json_body().get("value")
    # Python's JSON parser lets NaN pass and PostgreSQL stores it: every mean would be NaN from then on.
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        abort(400, description="'value' must be a finite number")
    trial = db.get_or_404(Trial, trial_id)
    services.record_value(trial, value)
    return trial_json(trial)


def json_body() -> dict[str, Any]:
    body = request.get_json()
    if not isinstance(body, dict):
        abort(400, description="a JSON object is expected")
    return body


def text_field(name: str, *, longest: int) -> str:
    value = json_body().get(name)
    # isprintable: PostgreSQL stores no NUL character, and nobody wants a line break in a name.
    if not (isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= longest):
        abort(400, description=f"{name!r} must be 1 to {longest} printable characters")
    return value.strip()


def is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def participant_json(participant: Participant) -> dict[str, Any]:
    return {"id": participant.id, "name": participant.name}


def session_json(session: StudySession) -> dict[str, Any]:
    return {
        "id": session.id,
        "current_trial": session.current_trial_id,
        "trials": [trial_json(trial) for trial in session.trials],
    }


def trial_json(trial: Trial) -> dict[str, Any]:
    return {
        "id": trial.id,
        "position": trial.position,
        "state": trial.state.value,
        "station": trial.station,
        "value": trial.value,
        "groups": [group.name for group in trial.groups],
    }
