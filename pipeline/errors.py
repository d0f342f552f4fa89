"""The one exception that a user may see, and the exit codes that go with it."""

REFUSED = 2  # the input is wrong
RESOURCE = 3  # disk or memory ran out
DIVERGED = 4  # training or sampling gave non-finite numbers


class UserError(Exception):
    """Something that the user can mend: what is wrong, where, and what to do about it.

    `code` is the process's exit code. `str(error)` is one line, or several when `what` names several faults.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "", code: int = REFUSED):
        super().__init__(what, where, remedy)
        self.what, self.where, self.remedy, self.code = what, str(where), remedy, code

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line} - {self.remedy}" if self.remedy else line


class Stopped(Exception):
    """A signal ended the work after a checkpoint was written; `signum` is the signal's number."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum
