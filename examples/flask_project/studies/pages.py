"""The pages: participants choose who they are and see how far their sessions have come."""

from __future__ import annotations

from flask import Blueprint, abort, flash, g, redirect, render_template, request, url_for
from flask import session as cookie  # "session" means a participant's session everywhere else
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from studies import services
from studies.database import db
from studies.models import Participant, StudySession

bp = Blueprint("pages", __name__)


@bp.before_request
def load_participant() -> None:
    participant_id = cookie.get("participant_id")
    g.participant = None if participant_id is None else db.session.get(Participant, participant_id)


@bp.get("/")
def index() -> ResponseReturnValue:
    participants = db.session.scalars(select(Participant).order_by(Participant.name)).all()
    return render_template("index.html", participants=participants)


@bp.post("/act-as")
def act_as() -> ResponseReturnValue:
    participant = db.session.get(Participant, request.form.get("participant", -1, type=int))
    if participant is None:
        abort(400, description="choose a participant from the list")
    cookie["participant_id"] = participant.id
    flash(f"You act as {participant.name} now.")
    return redirect(url_for(".own_sessions"))


@bp.post("/leave")
def leave() -> ResponseReturnValue:
    cookie.clear()
    return redirect(url_for(".index"))


@bp.get("/sessions")
def own_sessions() -> ResponseReturnValue:
    if g.participant is None:
        return redirect(url_for(".index"))
    sessions = db.session.scalars(
        select(StudySession)
        .where(StudySession.participant == g.participant)
        .order_by(StudySession.id)
        .options(selectinload(StudySession.trials))
    ).all()
    return render_template("sessions.html", sessions=sessions)


@bp.get("/groups")
def groups() -> ResponseReturnValue:
    return render_template("groups.html", groups=services.summarize_groups())
