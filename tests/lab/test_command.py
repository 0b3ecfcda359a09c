"""What the commands of studies share, but for what their own tests go through."""

import argparse
import shlex

from simjax.lab import command
from simjax.lab.precision import command as precision
from simjax.lab.scaling import command as scaling


def parse(module, *arguments, rest=()):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(map(str, arguments), argparse.Namespace(rest=list(rest)))


def test_the_command_line_can_be_repeated():
    args = parse(precision, "--batches", 8, 4, 8, "--arithmetic_batches", 2, "--seeds", 7)
    assert command.command_line(args, "precision", precision.OPTIONS) == (
        "simjax lab precision --arithmetic_batches 2 --batches 8 4 8 --seeds 7"
    )
    args = parse(
        scaling,
        *("/home/me/configs/x.yaml", "--quick", "--root", "/home/me/data"),
        *("--negative_groups", "8", "batch", "--seeds", "3", "--output", "/home/me/here"),
        rest=["--data.source.path=/home/me/my.csv", "--data.source.positives=[a, b]"],
    )
    said = command.command_line(args, "scaling", scaling.OPTIONS, scaling._word)
    assert said == (
        "simjax lab scaling configs/x.yaml --quick --root DATA --negative_groups 8 batch --seeds 3 "
        "--data.source.path my.csv --data.source.positives '[a, b]'"
    )
    assert shlex.split(said)[-2:] == ["--data.source.positives", "[a, b]"]
