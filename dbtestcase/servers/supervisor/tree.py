"""Whole folders deleted, with nothing in them followed."""

from __future__ import annotations

import os


def remove(path: str) -> None:
    """Delete the folder ``path`` and all below it, following no link; what is gone already is no error."""
    try:
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _remove(os.path.basename(path), parent)
    finally:
        os.close(parent)


def _remove(name: str, parent: int) -> None:
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for entry, is_folder in found:
            try:
                if is_folder:
                    _remove(entry, folder)
                else:
                    os.unlink(entry, dir_fd=folder)
            except FileNotFoundError:
                continue
    finally:
        os.close(folder)
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return
