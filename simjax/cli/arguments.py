"""The argument parser of all commands, and the options that several of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from simjax.errors import UsageError
from simjax.remote import path_here


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        # Nobody is told anything by "(default: None)" or "(default: False)".
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and whose help shows defaults."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(*args, **options)
        self.has_commands = False
        self.more_help: Callable[[], str] | None = None
        """What the help ends with, made when it is asked for."""

    def format_help(self) -> str:
        """As argparse does, with `more_help`."""
        return super().format_help() + ("" if self.more_help is None else self.more_help())

    def add_subparsers(self, **options: Any) -> Any:
        """As argparse does, and remembers that this parser only leads to others."""
        self.has_commands = True
        return super().add_subparsers(**options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_command(
    commands: Any,
    name: str,
    summary: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], object],
) -> None:
    """Add a command below a command, such as `check` below `data`."""
    parser = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
    add_arguments(parser)
    add_traceback(parser)
    parser.set_defaults(run=run)


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """Add `--traceback`."""
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json FILE`, for commands that print figures."""
    parser.add_argument(
        "--json", type=path_here, metavar="FILE", help="write the figures here as well"
    )


def split_overrides(
    argv: Sequence[str], is_override: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Part overrides of a recipe from a command's own arguments.

    Each override is `--key VALUE` or `--key=VALUE`; a value may start with a dash.

    Args:
        argv: The command line.
        is_override: Whether an argument, what follows an equals sign left out, names a key of the
            recipe.

    Returns:
        The arguments for argparse, and the overrides, a list of `--key=VALUE`.

    Raises:
        UsageError: An override without a value.
    """
    known: list[str] = []
    overrides: list[str] = []
    rest = iter(argv)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if not is_override(name):
            known.append(argument)
        elif equals:
            overrides.append(argument)
        else:
            value = next(rest, None)
            if value is None:
                raise UsageError(f"{argument}: give it a value")
            overrides.append(f"{argument}={value}")
    return known, overrides


def every_option_but(own: Sequence[str]) -> Callable[[str], bool]:
    """For `split_overrides`: whether an option is none of a command's ``own``, nor of all."""
    known = {*own, "--traceback", "--help"}
    return lambda name: name.startswith("--") and name not in known


def every_dotted_option(name: str) -> bool:
    """For `split_overrides`, where keys of the recipe without a dot cannot be given."""
    return name.startswith("--") and "." in name
