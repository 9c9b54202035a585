"""What goes into a Lambda package, and that the same inputs make the same bytes."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "lambda_package", ROOT / "infra" / "lambda" / "package.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def some_tree(into: Path) -> Path:
    """Something like what pip leaves behind, with Penstock beside it."""
    for name, content in {
        "penstock/__init__.py": "NAMES = {'a', 'b', 'c', 'd'}\n",
        "penstock/testing/__init__.py": "",
        "other/__init__.py": "def f():\n    return {'x', 'y', 'z'}\n",
        "other/__init__.pyi": "def f() -> set[str]: ...\n",
        "other/fast.pyx": "cdef int f(): pass\n",
        "other/tests/test_f.py": "assert True\n",
        "alone.py": "ANSWER = 42\n",
        "bin/other": "#!/bin/sh\n",
        "other-1.0.dist-info/METADATA": "Name: other\n",
        "other-1.0.dist-info/RECORD": "made,on,this,machine\n",
        "botocore/data/sqs/service.json": "{}",
        "botocore/data/ec2/service.json": "{}",
        "botocore/data/endpoints.json": "{}",
        "sqlalchemy/dialects/__init__.py": "",
        "sqlalchemy/dialects/postgresql/__init__.py": "",
        "sqlalchemy/dialects/oracle/__init__.py": "",
    }.items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return into


def built(package: ModuleType, into: Path) -> Path:
    tree = some_tree(into / "tree")
    package.prune(tree, ("sqs",))
    package.compile_code(tree)
    target = into / "package.zip"
    package.pack(tree, target)
    return target


def test_only_what_runs_is_packed(package: ModuleType, tmp_path: Path) -> None:
    target = built(package, tmp_path)
    tag = sys.implementation.cache_tag
    with zipfile.ZipFile(target) as packed:
        names = packed.namelist()
    assert sorted(names) == [
        "alone.pyc",
        "botocore/data/endpoints.json",
        "botocore/data/sqs/service.json",
        "other-1.0.dist-info/METADATA",
        "other/__init__.pyc",
        "penstock/__init__.py",
        f"penstock/__pycache__/__init__.{tag}.pyc",
        "penstock/testing/__init__.py",
        f"penstock/testing/__pycache__/__init__.{tag}.pyc",
        "sqlalchemy/dialects/__init__.pyc",
        "sqlalchemy/dialects/postgresql/__init__.pyc",
    ]


def test_the_same_inputs_make_the_same_bytes(package: ModuleType, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = built(package, tmp_path / "one")
    old = os.umask(0o077)
    try:
        second = built(package, tmp_path / "two")
    finally:
        os.umask(old)
    assert first.read_bytes() == second.read_bytes()


def test_what_is_packed_runs(package: ModuleType, tmp_path: Path) -> None:
    """Lambda unpacks it, so the test does; modules without their source are found as well."""
    target = built(package, tmp_path)
    with zipfile.ZipFile(target) as packed:
        packed.extractall(tmp_path / "task")
    program = "import alone, other, penstock; print(alone.ANSWER, sorted(other.f()))"
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", program],
        env={"PYTHONPATH": str(tmp_path / "task")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "42 ['x', 'y', 'z']\n", done.stderr


def test_bytecode_names_the_place_where_lambda_unpacks_it(
    package: ModuleType, tmp_path: Path
) -> None:
    with zipfile.ZipFile(built(package, tmp_path)) as packed:
        assert b"/var/task/other/__init__.py" in packed.read("other/__init__.pyc")


def test_a_trimmed_library_is_smaller_and_still_loads(package: ModuleType, tmp_path: Path) -> None:
    compiler = sysconfig.get_config_var("CC")
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    library = tmp_path / "answer.so"
    try:
        done = subprocess.run(
            [*str(compiler).split(), "-g", "-shared", "-fPIC", "-o", str(library), str(source)],
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no C compiler")
    assert done.returncode == 0
    whole = library.read_bytes()
    smaller = package.trimmed(whole)
    assert len(smaller) < len(whole)
    other = tmp_path / "trimmed.so"
    other.write_bytes(smaller)
    assert ctypes.CDLL(str(other)).answer() == 42
    assert package.trimmed(smaller) == smaller


def test_what_is_no_library_of_ours_is_left_alone(package: ModuleType) -> None:
    for data in (b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(100), b"PK\x03\x04"):
        assert package.trimmed(data) == data


def test_another_python_is_refused_by_name(tmp_path: Path) -> None:
    if sys.version_info[:2] == (3, 13):
        pytest.skip("this is the Python that Lambda runs")
    program = [sys.executable, str(ROOT / "infra" / "lambda" / "package.py")]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "LAMBDA_PYTHON=" in done.stderr


def test_packages_hold_the_versions_that_were_tested(package: ModuleType) -> None:
    def pins(name: str) -> dict[str, str]:
        lines = (ROOT / "requirements" / name).read_text().splitlines()
        pinned = [line.split(" ")[0].split("==") for line in lines if "==" in line.split(" ")[0]]
        return dict(pinned)

    tested = pins("dev.lock")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    for name in package.SETS:
        packed = pins(f"lambda-{name}.lock")
        assert len(packed) > 20
        differing = {key: packed[key] for key in packed.keys() & tested.keys()}
        assert differing == {key: tested[key] for key in differing}
        assert f"lambda-{name}" in groups
        # Numbers are crunched elsewhere; these alone would fill a package.
        assert not packed.keys() & {"numpy", "pyarrow", "lightgbm", "uvicorn", "typer"}


# What functions load, step by step: all of them, those that migrate, that work, that answer.
LOADED = """
import asyncio, json, sys
from penstock.aws import lambda_handlers
from penstock.runtime import open_runtime
from penstock.schema import migrate
from penstock.settings import load_settings
from penstock.storage import postgres
from penstock.work.wakeups import sqs

steps = []

def step():
    before = {name for names in steps for name in names}
    steps.append(sorted({name.partition(".")[0] for name in sys.modules} - before))

async def main():
    settings = load_settings(services=["events", "tracking"])
    step()
    migrate(settings)
    step()
    async with open_runtime(settings, isolate=False, listen=False) as runtime:
        step()
        import mangum
        runtime.http()
        step()
    print(json.dumps(steps))

asyncio.run(main())
"""
# Used if they are there; nothing lacks without.
AT_WILL = {"greenlet", "orjson", "pygments", "rich", "simplejson", "uvloop"}


def test_what_a_function_loads_is_in_its_package(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    owners = packages_distributions()
    every, migrating, working, answering = json.loads(done.stdout)
    loads = {
        "migrate": every + migrating,
        "worker": every + working,
        "api": every + working + answering,
    }
    for name, modules in loads.items():
        loaded = {canonical(each) for module in modules for each in owners.get(module, ())}
        lock = (ROOT / "requirements" / f"lambda-{name}.lock").read_text()
        packed = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
        assert len(loaded) > 5
        # `python -m venv` of 3.11 puts setuptools in, which loads a hook of its own at start.
        assert loaded - packed - AT_WILL - {"penstock", "setuptools"} == set(), name


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
