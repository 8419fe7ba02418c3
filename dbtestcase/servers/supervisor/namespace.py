"""Be called another user: in a user namespace of one's own, where the present user id has the name that is needed.

``initdb`` wants an entry in the list of users, which the user of ``docker run -u 12345`` does not have; and PostgreSQL
does not run as root, not even as one who is root in a namespace of a single user. Linux only, and not everywhere.
"""

from __future__ import annotations

import os

_CLONE_NEWUSER = 0x10000000


def enter(user: int, group: int) -> None:
    """Let the present user and group be called ``user`` and ``group`` from now on, in this process and its children."""
    import ctypes

    own_user, own_group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER):
        number = ctypes.get_errno()
        raise OSError(number, f"no user namespace can be made: {os.strerror(number)}")
    _write("setgroups", "deny")
    _write("uid_map", f"{user} {own_user} 1")
    _write("gid_map", f"{group} {own_group} 1")


def _write(name: str, text: str) -> None:
    file = os.open(f"/proc/self/{name}", os.O_WRONLY)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
