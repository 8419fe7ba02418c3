"""The public errors, in the form that passes through SQLAlchemy as it is.

SQLAlchemy wraps what a driver raises while a statement is being prepared, unless the exception says that it must not.
"""

from __future__ import annotations

from sqlalchemy.exc import DontWrapMixin

from dbtestcase import errors

__all__ = ["IsolationBroken", "LostCommit"]


class IsolationBroken(errors.IsolationBroken, DontWrapMixin):
    __doc__ = errors.IsolationBroken.__doc__
    __module__ = errors.__name__


class LostCommit(errors.LostCommit, DontWrapMixin):
    __doc__ = errors.LostCommit.__doc__
    __module__ = errors.__name__
