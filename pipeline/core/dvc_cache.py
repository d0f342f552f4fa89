"""Where DVC keeps what the workspace has: its cache by the project's configuration, one object by asking DVC itself."""

import configparser
import contextlib
import os
from pathlib import Path


def place() -> Path:
    """The folder of DVC's cache, as the project's configuration says, or where it is without a word of that.

    Read here, since every stage asks and importing DVC takes longer than the check of params.yaml.
    """
    root = Path(os.environ.get("DVC_ROOT", ".")) / ".dvc"
    found = configparser.ConfigParser(strict=False, interpolation=None)
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):  # DVC itself will tell
        found.read([root / "config", root / "config.local"], encoding="utf-8")
    return root / found.get("cache", "dir", fallback="cache")


def kept(path: Path) -> Path | None:
    """The object of DVC's cache that the file was last made as, by dvc.lock; None where DVC knows of none."""
    from dvc.repo import Repo  # a second

    try:
        with Repo() as repo:
            md5 = repo.dvcfs.info(Path(path).as_posix()).get("dvc_info", {}).get("md5")
            found = Path(repo.cache.local.oid_to_path(md5)) if md5 else None
    except Exception:  # this serves a message about another fault, which must not be lost for it
        return None
    if found is None or not found.exists():
        return None
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
