"""What the command does whatever the subcommand: statuses, one-line errors, help."""

import argparse
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import simjax as package
from simjax.cli import main as cli
from simjax.errors import SimjaxError, UsageError

ROOT = Path(__file__).parents[2]
SUBCOMMANDS = [command.name for command in cli.COMMANDS]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[BaseException], None]]:
    """Makes `simjax data` a command without arguments that raises what it is told to."""
    module = types.ModuleType("simjax.cli.data", "Fails.")

    def choose(error: BaseException) -> None:
        def run(args: argparse.Namespace) -> None:
            raise error

        module.add_arguments = lambda parser: None
        module.run = run
        monkeypatch.setitem(sys.modules, "simjax.cli.data", module)

    yield choose


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (SimjaxError("x.tsv:3: bad"), 1, "simjax: x.tsv:3: bad\n"),
        (UsageError("data.root: bad"), 2, "simjax: data.root: bad\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "simjax: [Errno 2] No such file: 'x'\n"),
        (KeyboardInterrupt(), 130, "simjax: interrupted\n"),
        (SimjaxError("two\n  lines"), 1, "simjax: two lines\n"),
        (
            ZeroDivisionError("by zero"),
            1,
            "simjax: ZeroDivisionError: by zero (a fault of simjax's, not of your input: "
            "--traceback shows where)\n",
        ),
    ],
)
def test_errors_are_one_line_and_a_status(simjax, raising, error, status, line) -> None:
    raising(error)
    assert simjax("data") == (status, "", line)


def test_traceback_is_shown_when_asked_for(simjax, raising) -> None:
    raising(SimjaxError("bad"))
    with pytest.raises(SimjaxError, match="bad"):
        simjax("data", "--traceback")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "COMMAND"),
        (["trian"], "'trian'"),
        (["search"], "MODEL, CORPUS, QUERY"),
        (["search", "m", "c", "q", "--top_k", "0"], "'0' is not a whole number of at least 1"),
        (["search", "m", "c", "q", "--top", "1"], "--top"),
        (["encode", "m", "i", "o.npy", "--dtype", "float16"], "float16"),
        (["data"], "COMMAND"),
        (["data", "chek"], "chek"),
        (["lab", "bench", "nothing"], "nothing"),
        (["train"], "CONFIG"),
        (["train", "x.yaml", "--seed"], "--seed"),
    ],
)
def test_wrong_calls_are_told_in_one_line(simjax, arguments, names) -> None:
    status, out, err = simjax(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("simjax") and err.count("\n") == 1
    assert names in err


def test_help_lists_every_command(simjax) -> None:
    status, out, _ = simjax("--help")
    assert status == 0
    assert all(command.name in out and command.summary in out for command in cli.COMMANDS)


@pytest.mark.parametrize(
    "command", [*([name] for name in SUBCOMMANDS), ["data", "check"], ["lab", "bench", "loss"]]
)
def test_every_command_has_help(simjax, command) -> None:
    status, out, err = simjax(*command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: simjax {' '.join(command)}")


def test_the_help_of_train_lists_the_keys_of_a_recipe(simjax) -> None:
    lines = [line.strip() for line in simjax("train", "--help").out.splitlines()]
    assert "output: text (needed)" in lines
    assert 'objective.loss: one of infonce, flatnce, dcl ("infonce" for contrastive)' in lines
    assert "evaluation.tasks: a list of groups of keys ([])" in lines


def test_help_shows_defaults(simjax) -> None:
    assert "(default: 10)" in simjax("search", "--help").out
    assert "None" not in simjax("search", "--help").out


def test_version(simjax) -> None:
    assert simjax("--version") == (0, f"simjax {package.__version__}\n", "")


def test_the_command_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simjax", "data", "check", "/nonexistent"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "simjax: /nonexistent: no such folder\n"


def test_a_closed_pipe_is_quiet() -> None:
    script = (
        "import sys, types\n"
        "module = types.ModuleType('simjax.cli.data', 'x')\n"
        "module.add_arguments = lambda parser: None\n"
        "module.run = lambda args: [print('line') for _ in range(100_000)]\n"
        "sys.modules['simjax.cli.data'] = module\n"
        "from simjax.cli.main import main\n"
        "sys.exit(main(['data']))\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_interrupt_ends_in_one_line() -> None:
    script = (
        "import os, signal, sys, types\n"
        # Whoever starts the tests in the background may have SIGINT ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "module = types.ModuleType('simjax.cli.data', 'x')\n"
        "module.add_arguments = lambda parser: None\n"
        "module.run = lambda args: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.modules['simjax.cli.data'] = module\n"
        "from simjax.cli.main import main\n"
        "sys.exit(main(['data']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, b"simjax: interrupted\n")


def test_public_names() -> None:
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert package.errors.SimjaxError is package.SimjaxError
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing
