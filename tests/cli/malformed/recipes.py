"""Recipes that `simjax train` refuses."""

from __future__ import annotations

from pathlib import Path

from tests.cli.malformed.rows import Row, write

GOOD = "output: run\ntokenizer: {source: train, vocab_size: 300}\n"


def recipe(name: str, text: str | bytes, *says: str, overrides: tuple[str, ...] = ()) -> Row:
    """A recipe of that text after two good lines; `says` starts with its file and line."""
    whole = text if isinstance(text, bytes) else GOOD + text

    def make(folder: Path) -> list[str]:
        return ["train", str(write(folder / "recipe.yaml", whole)), *overrides]

    return Row(f"recipe: {name}", make, says, status=2)


def flag(override: str, *says: str) -> Row:
    return recipe(override, "", f"{override.split('=')[0]}: ", *says, overrides=(override,))


def absent(folder: Path) -> list[str]:
    return ["train", str(folder / "recipe.yaml")]


ROWS = [
    Row("recipe: absent", absent, ("{}/recipe.yaml: no such file",), 2),
    Row("recipe: a folder", lambda folder: ["train", str(folder)], ("{}: is a folder",), 2),
    recipe("empty", b"", "{}/recipe.yaml:1: ", "'output' is missing"),
    recipe("a list", b"- a\n", "{}/recipe.yaml:1: expected keys with values"),
    recipe("one word", b"run\n", "{}/recipe.yaml:1: expected keys with values"),
    recipe("not UTF-8", b"output: a\nseed: \xe9\n", "{}/recipe.yaml:2: not valid UTF-8"),
    recipe("UTF-16", "output: a\n".encode("utf-16"), "{}/recipe.yaml:1: not valid UTF-8"),
    recipe(
        "control characters", "seed: \x07\n", "{}/recipe.yaml:3: not valid YAML (the character #x07"
    ),
    recipe(
        "an escaped surrogate", 'data: {root: "\\ud800"}\n', "{}/recipe.yaml:3: not a plain value ("
    ),
    recipe("a tab as indent", "data:\n\troot: x\n", "{}/recipe.yaml:4: not valid YAML"),
    recipe("an open bracket", "seed: [1\n", "{}/recipe.yaml:4: not valid YAML"),
    recipe("a thousand brackets", "seed: " + "[" * 5000, "{}/recipe.yaml", "nested too deeply"),
    recipe("two documents", "---\nseed: 1\n", "{}/recipe.yaml:3: not valid YAML"),
    recipe("an alias of itself", "data: &x\n  source: *x\n", "{}/recipe.yaml:3: ", "itself"),
    recipe(
        "aliases that multiply",
        "data: {source: {positives: &a [x, x, x, x, x, x, x, x, x, x]}}\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "{}/recipe.yaml:1: not valid YAML (more than 100,000 values",
    ),
    recipe("an object of Python's", "seed: !!python/object:os.system x\n", ":3: not a plain value"),
    recipe("an impossible date", "seed: 2024-99-99\n", "{}/recipe.yaml:3: not a plain value"),
    recipe(
        "a view's rate",
        "data: {augment: [{kind: crop, rate: 2}]}\n",
        "{}/recipe.yaml:3: rate of a crop view is 2.0: give a number between 0 and 1",
    ),
    recipe("a key twice", "seed: 1\nseed: 2\n", "{}/recipe.yaml:4: the key 'seed' is given twice"),
    recipe("a list as key", "? [a]\n: 1\n", "{}/recipe.yaml:3: a key must be a name"),
    recipe("a misspelt key", "objective: {temprature: 1}\n", ":3: ", "mean objective.temperature?"),
    recipe("a key at the wrong place", "temperature: 1\n", ":3: ", "mean objective.temperature?"),
    recipe("text for a number", "seed: many\n", ":3: seed must be a whole number, not 'many'"),
    recipe("a truth value for a number", "seed: yes\n", ":3: seed must be a whole number"),
    recipe("not a number", "objective: {temperature: .nan}\n", ":3: objective.temperature must be"),
    recipe("infinity", "optimizer: {learning_rate: .inf}\n", ":3: optimizer.learning_rate must be"),
    recipe("a list for a section", "data: [1]\n", "{}/recipe.yaml:3: data must hold keys"),
    recipe("a section for a number", "seed: {a: 1}\n", ":3: seed must be a whole number"),
    recipe("an unknown choice", "objective: {loss: triplet}\n", ":3: ", "infonce, flatnce, dcl"),
    recipe("a number of 5,000 digits", f"seed: {'9' * 5000}\n", "{}/recipe.yaml:3: "),
    recipe(
        "a temperature of 400 digits",
        f"objective: {{temperature: {'9' * 400}}}\n",
        ":3: objective.temperature must be a number, not 9999",
    ),
    recipe("a seed below 0", "data: {seed: -1}\n", ":3: data.seed is -1"),
    recipe(
        "a seed of 100 bits", f"seed: {1 << 100}\n", ":3: seed is 1267650600228229401496703205376"
    ),
    recipe("nothing where text is due", "output:\n", "{}/recipe.yaml:3: "),
    recipe("data in a bucket", "data: {root: gs://b/x}\n", ":3: data.root is gs://b/x: must be on"),
    flag("--output=gs://b/run", "output is gs://b/run: must be on a file system here"),
    recipe("no batch", "data: {batch_size: 0}\n", ":3: data.batch_size is 0"),
    recipe("half a batch", "data: {batch_size: 1.5}\n", ":3: data.batch_size must be a whole"),
    recipe("a text longer than its row", "data: {row_length: 8}\n", ":3: data.row_length 8 is bel"),
    recipe("no steps", "train: {steps: 0}\n", ":3: train.steps is 0"),
    recipe("epochs below 0", "train: {epochs: -1}\n", ":3: train.epochs is -1"),
    recipe("a temperature below 0", "objective: {temperature: -1}\n", ":3: objective.temperature"),
    recipe("heads that do not divide", "model: {encoder: {num_heads: 7}}\n", ":3: ", "num_heads 7"),
    flag("--seed=x", "seed must be a whole number, not 'x'"),
    flag("--objective.temprature=1", "did you mean --objective.temperature?"),
    flag("--seed.x=1", "seed has no keys"),
    flag("--=1", "no such key"),
    flag("--data={a: [", "not valid YAML"),
    flag("--data.source.positives=" + "[" * 5000, "is not valid YAML"),
]
