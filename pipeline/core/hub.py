"""Files of a Hugging Face hub repository at one commit."""

from collections.abc import Callable
from pathlib import Path

from pipeline.core.errors import UserError


def snapshot(
    repository: str, revision: str, names: list[str], section: str, remedy: str, whole: Callable[[Path], bool]
) -> Path:
    """The folder with the named files (patterns) of a repository at a commit, from the local cache or the network.

    section: of params.yaml, whose key `hub` names the repository; remedy: what to do where the hub cannot be reached.
    whole: whether a folder has all that is wanted, since another program may have cached other files of it.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError

    asked = {"revision": revision, "allow_patterns": names}
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, local_files_only=True, **asked))
        if whole(folder):
            return folder
    except HFValidationError as fault:
        raise UserError(f"not a repository's name: {repository}", f"params.yaml: {section}.hub") from fault
    except LocalEntryNotFoundError:
        pass
    try:
        # Ask once first: without a network, the download alone would retry for half a minute.
        huggingface_hub.model_info(repository, revision=revision, timeout=5)
        return Path(huggingface_hub.snapshot_download(repository, etag_timeout=5, **asked))
    except HfHubHTTPError as fault:
        raise UserError(f"the hub refuses: {fault}", f"{repository}@{revision}") from fault
    except (LocalEntryNotFoundError, HTTPError, OSError) as fault:
        if getattr(fault, "filename", None):  # of the local cache
            raise
        what = "not in the local cache, and the hub cannot be reached"
        raise UserError(what, f"{repository}@{revision}", remedy) from fault
