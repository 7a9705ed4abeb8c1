"""errseg <command>: its words, flags and errors."""

from __future__ import annotations

import argparse
import difflib
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from errseg_jax.cli_flags import FLAG_DEFAULTS, FLAG_HELP, OWN_FLAGS, SWITCHES, WORDS
from errseg_jax.commands import COMMANDS
from errseg_jax.errors import UserError, disk_trouble


def usage() -> str:
  """The help text: every command with its first docstring line."""
  lines = ["usage: errseg COMMAND [FLAGS] [--config.section.key=value ...]", "", "commands:"]
  lines += [f"  {name:12} {(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()]
  lines += ["", "flags of a command: errseg COMMAND --help"]
  return "\n".join(lines)


class Parser(argparse.ArgumentParser):
  """argparse whose errors are ours."""

  def error(self, message: str):
    raise UserError(f"{self.prog}: {message}")


def parse(name: str, words: Sequence[str]) -> argparse.Namespace:
  """Flags of a command; `--config.a.b=value` are collected as overrides."""
  parser = Parser(prog=f"errseg {name}", description=COMMANDS[name].__doc__, allow_abbrev=False)
  own = OWN_FLAGS[name]
  for flag in sorted(own):
    if flag in SWITCHES:
      parser.add_argument(flag, action="store_true", help=FLAG_HELP[flag])
    else:
      parser.add_argument(
        flag, default=FLAG_DEFAULTS.get(flag, ""), help=FLAG_HELP[flag], metavar=flag[2:].upper()
      )
  if name in WORDS:
    word, count, meaning = WORDS[name]
    parser.add_argument(word, nargs=count, help=meaning)
  overrides = [w for w in words if w.startswith("--config.")]
  args, unknown = parser.parse_known_args([w for w in words if not w.startswith("--config.")])
  if unknown:
    near = difflib.get_close_matches(unknown[0].split("=")[0], [*own, "--config.", "--help"], 1)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(own)) or 'none'}"
    raise UserError(f"errseg {name}: unknown argument {unknown[0]!r}{hint}")
  args.overrides = overrides
  return args


def find_command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
  """The command that the words name, and the words behind it."""
  for count in (2, 1):
    name = " ".join(words[:count])
    if name in COMMANDS:
      return name, words[count:]
  near = difflib.get_close_matches(words[0], list(COMMANDS), 1)
  hint = f"did you mean {near[0]!r}? " if near else ""
  raise UserError(f"unknown command {words[0]!r}; {hint}known: {', '.join(COMMANDS)}")


def main(argv: Sequence[str] | None = None) -> int:
  """Entry point.

  Status 0 on success, 2 on a user's mistake or a file's (one line on stderr), 75 when other processes of the run are
  gone, 143 when it was told to stop and has saved, 1 otherwise.
  """
  words = list(sys.argv[1:] if argv is None else argv)
  if not words or words[0] in ("-h", "--help", "help"):
    print(usage())
    return 0
  try:
    name, rest = find_command(words)
    return COMMANDS[name](parse(name, rest))
  except UserError as error:
    return failed(2, " ".join(str(error).split()))
  except OSError as error:  # a folder that is a file, no right to write, a full disk
    if error.strerror is None or (error.filename is None and not disk_trouble(error)):
      raise
    where = "a file cannot be written" if error.filename is None else error.filename
    return failed(2, f"{where}: {error.strerror[:1].lower()}{error.strerror[1:]}")
  except KeyboardInterrupt:
    return 130
  except Exception as error:
    if (processes := started()) is None:
      raise
    if not (line := processes.lost(error)):
      traceback.print_exception(error)
    return failed(processes.LOST if line else 1, line or "an unexpected error")


def failed(status: int, line: str) -> int:
  """Says why; a process of several ends here and now."""
  print(f"errseg: {line}", file=sys.stderr)
  if (processes := started()) is not None:
    processes.leave(status)
  return status


def started() -> ModuleType | None:
  """The module of the processes, where this is one of several: only then is it (and jax) loaded."""
  module = sys.modules.get("errseg_jax.processes")
  return module if module is not None and module.several() else None


if __name__ == "__main__":
  sys.exit(main())
