"""Where DVC keeps what the workspace has, as DVC itself tells."""

import os
from pathlib import Path


def place() -> Path:
    """The folder of DVC's cache, configured or not; where there is no DVC project, where it would be."""
    from dvc.config import Config, ConfigError  # a tenth of a second

    root = Path(os.environ.get("DVC_ROOT", ".")) / ".dvc"
    try:
        return Path(Config(dvc_dir=str(root.absolute()))["cache"].get("dir") or root / "cache")
    except ConfigError:
        return root / "cache"


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
