"""The errors that a user can meet, by what they ask of the user.

One base and two leaves, one for each exit status of the command that fails. Messages are whole sentences that name
which key or file, what was found, what was expected and what to do; they are built where the fact is known.
They cross process borders, so each carries nothing but its message and pickles as it is.
"""


class StillhouseError(Exception):
    """Base of every error that the user is shown as one message, without a traceback."""

    exit_status = 1


class RunError(StillhouseError):
    """The run failed; what was complete is kept, and the same command resumes it."""

    exit_status = 1


class BadAnswer(RunError):
    """A member's answer that cannot be a probability's. `member`: its name."""

    def __init__(self, message: str, member: str) -> None:
        super().__init__(message, member)
        self.member = member

    def __str__(self) -> str:
        return str(self.args[0])


class RequestError(StillhouseError):
    """The request was wrong: arguments, configuration or data. Raised before any training."""

    exit_status = 2
