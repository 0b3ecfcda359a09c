"""The options by which a command is told of the other processes of its run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simjax.processes.start import ProcessConfig

_KEYS = (
    ("coordinator", str, "HOST:PORT", "where process 0 is found, with a port that is free there"),
    ("num_processes", int, "N", "processes in all"),
    ("process_id", int, "I", "number of this process, from 0"),
    (
        "heartbeat_timeout",
        int,
        "S",
        "seconds of silence after which a process is gone (100)",
    ),
    (
        "initialization_timeout",
        int,
        "S",
        "seconds in which all have to come together (300)",
    ),
    ("shutdown_timeout", int, "S", "seconds in which all have to disconnect at the end (300)"),
)
OPTIONS = ("--distributed", *(f"--{key}" for key, *_ in _KEYS))


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ProcessConfig`."""
    group = parser.add_argument_group("several processes, each started with the same command")
    for key, kind, metavar, told in _KEYS:
        group.add_argument(f"--{key}", type=kind, metavar=metavar, help=told)
    group.add_argument(
        "--distributed",
        choices=("auto", "yes", "no"),
        default="auto",
        help="whether JAX shall find the other processes of a cluster; auto: if the environment "
        "names several",
    )


def process_config(args: argparse.Namespace) -> ProcessConfig:
    """What the options say.

    Raises:
        UsageError: They contradict each other.
    """
    from simjax.processes.start import ProcessConfig

    given = {key: getattr(args, key) for key, *_ in _KEYS if getattr(args, key) is not None}
    return ProcessConfig(distributed=args.distributed, **given)
