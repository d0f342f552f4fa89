"""The exceptions that a user may see, and the exit codes that go with them."""

REFUSED = 2  # the input is wrong
RESOURCE = 3  # disk or memory ran out
DIVERGED = 4  # training or sampling gave non-finite numbers


LONGEST = 2_000  # characters of what a message says: much of it may be a stranger's file's


class UserError(Exception):
    """Something that the user can mend: what is wrong, where, and what to do about it.

    `code` is the process's exit code. `str(error)` is one line whatever the words are: what does not print is escaped.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "", code: int = REFUSED):
        super().__init__(what, where, remedy)
        self.what, self.where, self.remedy, self.code = what, str(where), remedy, code
        self.faults = [self]

    def __str__(self) -> str:
        what = self.what if len(self.what) <= LONGEST else f"{self.what[:LONGEST]} ..."
        line = f"{self.where}: {what}" if self.where else what
        line = f"{line} - {self.remedy}" if self.remedy else line
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class UserErrors(UserError):
    """Several of them, told a line each; the code is the lowest."""

    def __init__(self, faults: list[UserError]):
        super().__init__("; ".join(fault.what for fault in faults), code=min(fault.code for fault in faults))
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "STATUS_ALLOC_FAILED")  # torch's words


def out_of_memory(fault: Exception) -> bool:
    """Whether a fault is the machine's lack of memory, which is no fault of a file or of a model."""
    words = str(fault)
    return isinstance(fault, MemoryError) or (isinstance(fault, RuntimeError) and any(w in words for w in _NO_MEMORY))


class Stopped(BaseException):
    """A signal ended the work after a checkpoint was written; `signum` is the signal's number.

    No Exception, as KeyboardInterrupt is none: it may come anywhere, and where a file is read would pass for its fault.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum
