"""The directories that are volumes. All calls block."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from underway.base.errors import InternalError

_MODE = 0o777  # containers run as any user; the directory above lets nobody else in


class Directories:
    """Directories below one base, which only the platform may enter."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def make(self, name: str) -> Path:
        """Make a directory, if it is not there.

        Raises:
            InternalError: it cannot be made, or something else has its name.
        """
        path = self.base / name
        try:
            self.base.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                if path.is_symlink() or not path.is_dir():
                    raise
            else:
                path.chmod(_MODE)
        except OSError as error:
            raise InternalError(f"volume directory {name}: {error.strerror}") from error
        return path

    def remove(self, name: str) -> None:
        """Take a directory and all it holds away, following no link; repeatable.

        Raises:
            InternalError: something in it cannot be removed.
        """
        try:
            base = os.open(self.base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InternalError(f"volume directories: {error.strerror}") from error
        try:
            # Relative to descriptors throughout, so that links put there meanwhile lead nowhere.
            shutil.rmtree(name, dir_fd=base)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InternalError(f"volume directory {name}: {error.strerror}") from error
        finally:
            os.close(base)
