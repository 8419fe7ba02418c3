"""Participants take part in sessions made of trials; trials belong to groups.

::

    participant --< session --< trial >--< group
                       |          ^
                       '----------'  current_trial
"""

from __future__ import annotations

import enum
from datetime import datetime

from sqlalchemy import Column, DateTime, Enum, ForeignKey, String, Table, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from studies.database import db


class TrialState(enum.StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"


class Participant(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)

    sessions: Mapped[list[StudySession]] = relationship(
        back_populates="participant", order_by="StudySession.id", passive_deletes="all"
    )


class StudySession(db.Model):
    __tablename__ = "session"

    id: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    participant_id: Mapped[int] = mapped_column(ForeignKey("participant.id", ondelete="CASCADE"), index=True)
    # use_alter: "session" and "trial" refer to each other, so this constraint comes after both tables.
    current_trial_id: Mapped[int | None] = mapped_column(ForeignKey("trial.id", ondelete="SET NULL", use_alter=True))

    participant: Mapped[Participant] = relationship(back_populates="sessions")
    trials: Mapped[list[Trial]] = relationship(
        back_populates="session", foreign_keys="Trial.session_id", order_by="Trial.position", passive_deletes="all"
    )
    # post_update: the session is inserted first, its trials next, and then it learns which of them comes first.
    current_trial: Mapped[Trial | None] = relationship(foreign_keys=[current_trial_id], post_update=True)


trial_groups = Table(
    "trial_groups",
    db.metadata,
    Column("trial_id", ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True),
    Column("group_id", ForeignKey("group.id", ondelete="CASCADE"), primary_key=True, index=True),
)


class Trial(db.Model):
    __table_args__ = (UniqueConstraint("session_id", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[int] = mapped_column(ForeignKey("session.id", ondelete="CASCADE"))
    position: Mapped[int]
    state: Mapped[TrialState] = mapped_column(
        Enum(TrialState, name="trial_state", values_callable=lambda states: [state.value for state in states]),
        default=TrialState.WAITING,
    )
    station: Mapped[str | None] = mapped_column(String(40))  # where it is or was measured
    value: Mapped[float | None]

    session: Mapped[StudySession] = relationship(back_populates="trials", foreign_keys=[session_id])
    groups: Mapped[list[Group]] = relationship(secondary=trial_groups, back_populates="trials", order_by="Group.name")


class Group(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)

    trials: Mapped[list[Trial]] = relationship(secondary=trial_groups, back_populates="groups", order_by="Trial.id")


class AuditEntry(db.Model):
    __bind_key__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    action: Mapped[str] = mapped_column(String(40))
    # A name and no foreign key: it lies in another database, and stays when the participant is gone.
    participant: Mapped[str] = mapped_column(String(80))
