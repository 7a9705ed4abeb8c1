"""The one exception that a user's mistake raises."""


class UserError(Exception):
  """A mistake in the input: the command line prints it as one line and exits with status 2.

  The message names the file or key, says what is wrong with it and what to do.
  """


class BadFile(UserError):
  """A file of a data set that cannot be used.

  Attributes:
    kind: of the fault, a key of `data.faults.FAULTS`.
  """

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind
