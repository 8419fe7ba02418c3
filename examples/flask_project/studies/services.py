"""What the application does. Each function is one unit of work: it commits, or it raises and changes nothing.

Nothing here knows of requests, so the views, the command line and the tests call the same functions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Select, func, select, update
from sqlalchemy.exc import IntegrityError

from studies.database import db
from studies.models import AuditEntry, Group, Participant, StudySession, Trial, TrialState, trial_groups


class Refused(Exception):
    """The request is understood, but what is in the database forbids it. The message is for the user."""


class GroupSummary(NamedTuple):
    name: str
    measured: int
    mean: float | None


def enrol(name: str) -> Participant:
    """Add a participant.

    Raises:
        Refused: The name is taken.
    """
    participant = Participant(name=name)
    db.session.add_all([participant, AuditEntry(action="enrolled", participant=name)])
    try:
        db.session.commit()
    except IntegrityError as exc:
        # Asking for the name first would be a race. The constraint decides, in this database and for the other.
        db.session.rollback()
        raise Refused(f"the name {name!r} is taken") from exc
    return participant


def withdraw(participant: Participant) -> None:
    """Delete a participant with all that was measured; only the audit log remembers."""
    db.session.add(AuditEntry(action="withdrew", participant=participant.name))
    db.session.delete(participant)
    db.session.commit()


def add_groups(names: Collection[str]) -> int:
    """Add the groups that are not there yet, and return how many that were."""
    existing = set(db.session.scalars(select(Group.name).where(Group.name.in_(names))))
    missing = set(names) - existing
    db.session.add_all(Group(name=name) for name in sorted(missing))
    db.session.commit()
    return len(missing)


def start_session(participant: Participant, plan: Sequence[Collection[str]]) -> StudySession:
    """Start a session.

    Args:
        plan: For each of its trials, in order, the names of the groups that the trial belongs to.

    Raises:
        Refused: There is no group of that name.
    """
    wanted = {name for names in plan for name in names}
    groups = {group.name: group for group in db.session.scalars(select(Group).where(Group.name.in_(wanted)))}
    if unknown := sorted(wanted - groups.keys()):
        raise Refused(f"there is no group {unknown[0]!r}")

    trials = [
        Trial(position=position, groups=[groups[name] for name in set(names)])
        for position, names in enumerate(plan, start=1)
    ]
    started = StudySession(participant=participant, trials=trials, current_trial=trials[0] if trials else None)
    db.session.add(started)
    db.session.add(AuditEntry(action="started a session", participant=participant.name))
    db.session.commit()
    return started


def next_waiting_trial() -> Select[tuple[Trial]]:
    """Return the statement that finds and locks the next trial, past those that others are just claiming."""
    return (
        select(Trial)
        .where(Trial.state == TrialState.WAITING)
        .order_by(Trial.session_id, Trial.position)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def claim_next_trial(station: str) -> Trial | None:
    """Give a measuring station the next trial that waits, or ``None``. No two stations get the same one."""
    trial = db.session.scalar(next_waiting_trial())
    if trial is not None:
        trial.state = TrialState.RUNNING
        trial.station = station
    db.session.commit()
    return trial


def record_value(trial: Trial, value: float) -> None:
    """Write down what was measured and move the session on to its next trial.

    Raises:
        Refused: The trial is not running.
    """
    if trial.state is not TrialState.RUNNING:
        raise Refused(f"trial {trial.id} is {trial.state.value}, not running")

    trial.value = value
    trial.state = TrialState.DONE
    open_trials = (each for each in trial.session.trials if each.state in (TrialState.WAITING, TrialState.RUNNING))
    trial.session.current_trial = next(open_trials, None)
    db.session.commit()


def skip_overdue(older_than: timedelta) -> int:
    """Skip what still waits in sessions that began too long ago, and return how many trials that were.

    One statement for any number of rows, so this goes to the engine and loads nothing.
    """
    overdue = select(StudySession.id).where(StudySession.started_at < datetime.now(UTC) - older_than)
    with db.engine.begin() as connection:
        result = connection.execute(
            update(Trial)
            .where(Trial.state == TrialState.WAITING, Trial.session_id.in_(overdue))
            .values(state=TrialState.SKIPPED)
        )
    return result.rowcount


def summarize_groups() -> list[GroupSummary]:
    """Return, for each group by name, how many trials were measured and their mean. Reads through the engine too."""
    statement = (
        select(Group.name, func.count(Trial.value), func.avg(Trial.value))
        .outerjoin(trial_groups, trial_groups.c.group_id == Group.id)
        .outerjoin(Trial, Trial.id == trial_groups.c.trial_id)
        .group_by(Group.name)
        .order_by(Group.name)
    )
    with db.engine.connect() as connection:
        return [GroupSummary(*row) for row in connection.execute(statement)]
