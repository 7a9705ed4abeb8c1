"""Errors that a user sees as one line."""

import errno
import os


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


DISK = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EACCES,
  errno.EIO,
  errno.ESTALE,
  errno.ENOTCONN,
  errno.ENODEV,
)


def disk_trouble(error: BaseException) -> str:
  """What a disk, or one over the network, refuses: "no space left on device"; "" of any other error.

  Libraries below raise it as an OSError, or as text in an error of theirs.
  """
  text = str(error).lower()
  found = [os.strerror(code).lower() for code in DISK]
  if isinstance(error, OSError):
    return (error.strerror or "").lower() if error.errno in DISK else ""
  return next((reason for reason in found if reason in text), "")
