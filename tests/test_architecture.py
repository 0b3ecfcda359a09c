"""The layout rules of CONTRIBUTING.md, held by walking the source."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "simjax"

# Each layer imports only from earlier ones. Parts of one layer leave each other alone, except
# where PAIRED says otherwise.
LAYERS = (
    {"errors"},
    {"types", "dotted", "remote", "argument_types"},
    {"mesh", "processes"},
    {"ops"},
    {"models", "objectives", "data"},
    {"eval"},
    {"postprocess"},
    {"checkpoint"},
    {"sentence_encoder", "export", "model_card", "inference", "index"},
    {"train"},
    {"generate", "mine", "plan"},
    {"lab"},
    {"cli"},
)
PAIRED = ({"sentence_encoder", "export", "model_card", "inference", "index"},)

COLLECTIVES = {
    "all_gather",
    "all_to_all",
    "axis_index",
    "pcast",
    "pmax",
    "pmean",
    "pmin",
    "ppermute",
    "psum",
    "psum_scatter",
    "pvary",
}
AXES = {"DATA", "FSDP", "TENSOR", "AXES"}
HEAVY = {
    "datasets",
    "faiss",
    "flax",
    "grain",
    "jax",
    "jsonargparse",
    "matplotlib",
    "numpy",
    "optax",
    "orbax",
    "pandas",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "tensorboardX",
    "tensorflow_datasets",
    "torch",
    "transformers",
    "wandb",
    "yaml",
}
MAX_LINES = 420


def sources(folder: Path = PACKAGE) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found
    return found


def part(path: Path) -> str:
    """`ops` for simjax/ops/tiled.py, `mesh` for simjax/mesh.py, "" for simjax/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first in ("__init__", "__main__") else first


def level(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def allowed(importer: str, imported: str) -> bool:
    if importer == imported or any({importer, imported} <= pair for pair in PAIRED):
        return True
    return level(imported) < level(importer)


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import of simjax, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            names = [module]
            if module == "simjax":
                names = [f"simjax.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "simjax":
                yield node.lineno, name


def test_every_part_has_a_layer() -> None:
    parts = {part(path) for path in sources()} - {""}
    assert parts <= set().union(*LAYERS)


def test_imports_run_one_way() -> None:
    wrong = []
    for path in sources():
        importer = part(path)
        if not importer:
            continue
        for line, name in imports(ast.parse(path.read_text()), path):
            steps = name.split(".")
            if len(steps) > 1 and steps[1] in set().union(*LAYERS):
                if not allowed(importer, steps[1]):
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {importer} imports {name}")
            elif importer != "cli" and name != "simjax.__version__":
                wrong.append(f"{path.relative_to(ROOT)}:{line}: imports the package itself")
    assert not wrong, "\n".join(wrong)


def test_studies_leave_each_other_alone() -> None:
    lab = PACKAGE / "lab"
    studies = {path.name for path in lab.iterdir() if path.is_dir()}
    studies -= {"bench", "sweep", "__pycache__"}  # which studies stand on
    assert {"precision", "scaling"} <= studies
    wrong = []
    for path in sources(lab):
        named = set(re.findall(r"simjax\.lab(?:\.| import )(\w+)", path.read_text()))
        if others := named & (studies - {path.relative_to(lab).parts[0]}):
            wrong.append(f"{path.relative_to(ROOT)}: imports {others}")
    assert not wrong, "\n".join(wrong)


def test_the_walk_sees_an_import_against_the_direction() -> None:
    tree = ast.parse("def f():\n    from simjax.models.encoder import Encoder\n")
    found = list(imports(tree, Path("x")))
    assert found == [(2, "simjax.models.encoder")]
    assert not allowed("objectives", "models")
    assert not allowed("ops", "models")
    assert allowed("train", "models")


def test_only_ops_and_mesh_name_collectives_and_axes() -> None:
    wrong = []
    for path in sources():
        if part(path) in ("ops", "mesh"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in COLLECTIVES | AXES:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.attr}")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                ("jax", "simjax.mesh")
            ):
                names = {alias.name for alias in node.names} & (COLLECTIVES | AXES)
                wrong.extend(f"{path.relative_to(ROOT)}:{node.lineno}: {name}" for name in names)
            elif isinstance(node, ast.keyword) and node.arg in ("axis_name", "axis_names"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.value.lineno}: {node.arg}=")
            elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                "P",
                "PartitionSpec",
            ):
                named = [arg for arg in ast.walk(node) if isinstance(arg, ast.Constant)]
                if any(isinstance(arg.value, str) for arg in named):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: a named axis")
    assert not wrong, "\n".join(wrong)


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    names = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
    assert not [path for path in sources() if {path.stem, *path.parent.parts} & names]


def test_files_stay_small() -> None:
    files = [*sources(), *sources(ROOT / "tests")]
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in long.items() if lines > MAX_LINES} == {}


def test_nothing_is_pickled_and_no_remote_code_is_run() -> None:
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                if {"pickle", "cloudpickle", "dill"} & set(names):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: pickle")
            elif isinstance(node, ast.keyword) and node.arg in (
                "allow_pickle",
                "trust_remote_code",
            ):
                if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.value.lineno}: {node.arg}")
            elif isinstance(node, ast.keyword) and node.arg == "weights_only":
                wrong.append(f"{path.relative_to(ROOT)}:{node.value.lineno}: torch's loader")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "code",
    [
        "import simjax; simjax.__version__; simjax.SimjaxError; dir(simjax)",
        "from simjax.cli.main import main; assert main(['--help']) == 0",
        "from simjax.cli.main import main; assert main(['export', '--help']) == 0",
        "from simjax.cli.main import main; assert main(['data', 'check', '--help']) == 0",
    ],
)
def test_help_imports_nothing_heavy(code: str) -> None:
    script = f"{code}\nimport sys\nprint()\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == ""
