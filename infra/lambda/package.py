"""Builds the packages of the Lambda functions: `make package`.

Each set of `SETS` becomes ``penstock-SET.zip``: Penstock's code and what the set's lock file names,
as wheels for Lambda's own Python, pruned and compiled. The same inputs make the same bytes: entries
are sorted, their times and modes fixed, and compiled code names the hash of its source and not its
time. Runs under the Python version that Lambda runs, because that is whose bytecode goes in.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = (3, 13)  # the runtime in infra/terraform/modules/function
MIB = 1024 * 1024
# Lambda takes 250 MiB; what is larger than a set's most has something in it by mistake.
MOST = 60 * MIB
# Amazon Linux 2023 has glibc 2.34.
GLIBC = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Set:
    """What is in one package: `aws` are the services of AWS that its code talks to."""

    aws: tuple[str, ...]
    without: tuple[str, ...] = ()  # of Penstock itself, paths below the package
    most: int = MOST  # bytes, unzipped


SETS = {
    "api": Set(
        aws=("secretsmanager", "sqs", "ses", "sesv2", "sns", "sts"),
        without=("cli",),
        most=64 * MIB,  # the console's pages
    ),
    "worker": Set(
        aws=("secretsmanager", "sqs", "ses", "sesv2", "sns", "sts"),
        without=("cli", "console"),
    ),
    "migrate": Set(aws=("secretsmanager", "sts"), without=("cli", "console")),
}
# Read while packages are installed, type-checked or tested, never while they run.
_USELESS_NAMES = {"__pycache__", "bin", "tests", "testing"}
_USELESS_ENDINGS = {".c", ".cc", ".h", ".hash", ".pxd", ".pxi", ".pyi", ".pyx", ".so.debug"}
_KEPT_METADATA = {"METADATA", "entry_points.txt"}


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Build the packages of the Lambda functions.")
    parser.add_argument("sets", nargs="*", choices=[[], *SETS], help="which; all if none is named")
    parser.add_argument("--architecture", choices=[*MACHINES], default="x86_64")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "lambda")
    given = parser.parse_args()
    if sys.version_info[:2] != PYTHON:
        wanted = ".".join(map(str, PYTHON))
        sys.exit(
            f"The packages hold bytecode for Lambda's Python {wanted}, and this is"
            f" {sys.version.split()[0]}: run it with python{wanted}"
            f" (make package LAMBDA_PYTHON=/path/to/python{wanted})."
        )
    given.output.mkdir(parents=True, exist_ok=True)
    for name in given.sets or SETS:
        target = given.output / f"penstock-{name}.zip"
        size = build(name, given.architecture, target)
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        packed = target.stat().st_size
        print(f"{target.name}  {size / MIB:.1f} MiB unzipped, {packed / MIB:.1f} MiB  {digest}")


def build(name: str, architecture: str, target: Path) -> int:
    """Build one package; answers its size when it is unzipped, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / name
        tree.mkdir()
        install(ROOT / "requirements" / f"lambda-{name}.lock", architecture, tree)
        _copy_penstock(tree, SETS[name].without)
        prune(tree, SETS[name].aws)
        compile_code(tree)
        size = sum(path.stat().st_size for path in files(tree))
        if size > (most := SETS[name].most):
            biggest = "\n".join(_biggest(tree))
            sys.exit(f"{name} is {size / MIB:.1f} MiB unzipped, not {most / MIB:g}:\n{biggest}")
        pack(tree, target)
        return size


def install(lock: Path, architecture: str, into: Path) -> None:
    """The wheels that the lock names, for Lambda's machines, whatever this one is."""
    platforms = [f"--platform={each}_{MACHINES[architecture]}" for each in GLIBC]
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"),
        *("--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile"),
        *("--implementation=cp", "--python-version=" + ".".join(map(str, PYTHON)), *platforms),
        *("--target", str(into), "--requirement", str(lock)),
    ]
    subprocess.run(command, check=True)  # noqa: S603 - no shell, and nothing of it is foreign


def _copy_penstock(tree: Path, without: tuple[str, ...]) -> None:
    source = ROOT / "src" / "penstock"
    left_out = {source / path for path in without}

    def ignored(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(folder) / name in left_out}

    shutil.copytree(source, tree / "penstock", ignore=ignored)


def prune(tree: Path, aws: tuple[str, ...]) -> None:
    """Delete what no function reads."""
    for path in sorted(tree.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_dir():
            if path.name in _USELESS_NAMES and path.parent.name != "penstock":
                shutil.rmtree(path)
        elif path.suffix in _USELESS_ENDINGS or _is_useless_metadata(path):
            path.unlink()
        elif ".so" in path.suffixes:
            path.write_bytes(trimmed(path.read_bytes()))
    for folder, kept in (
        (tree / "botocore" / "data", {*aws}),
        (tree / "sqlalchemy" / "dialects", {"postgresql", "sqlite"}),
    ):
        for path in folder.iterdir() if folder.exists() else ():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path)


def _is_useless_metadata(path: Path) -> bool:
    return path.parent.suffix == ".dist-info" and path.name not in _KEPT_METADATA


def trimmed(library: bytes) -> bytes:
    """A shared library without what only linkers and debuggers read: symbols, section table.

    Segments, which are what is loaded, stay as they are. ELF, 64 bits, little-endian; anything
    else is left alone.
    """
    if library[:6] != b"\x7fELF\x02\x01":
        return library
    (table,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<HH", library, 54)
    end = table + size * count
    for number in range(count):
        offset, _, _, length = struct.unpack_from("<QQQQ", library, table + number * size + 8)
        end = max(end, offset + length)
    kept = bytearray(library[:end])
    struct.pack_into("<Q", kept, 40, 0)  # where the section table is: nowhere
    struct.pack_into("<HH", kept, 60, 0, 0)  # how many sections, which one holds their names
    return bytes(kept)


def compile_code(tree: Path) -> None:
    """Bytecode for every module: without it a cold start takes three times as long.

    Of others' code nothing but the bytecode stays; their lines in a traceback then have their
    number and not their text.
    """
    own = tree / "penstock"
    others = [path for path in sorted(tree.iterdir()) if path != own]
    _compile(tree, own)
    _compile(tree, *others, beside=True)
    for path in others:
        for source in [path] if path.suffix == ".py" else path.rglob("*.py"):
            if source.with_suffix(".pyc").exists():
                source.unlink()


def _compile(tree: Path, *paths: Path, beside: bool = False) -> None:
    command = [
        *(sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/var/task"),
        *("--invalidation-mode", "unchecked-hash", *(["-b"] if beside else []), *map(str, paths)),
    ]
    # The order of a set's elements is written into bytecode.
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "0"})  # noqa: S603


def files(tree: Path) -> Iterator[Path]:
    """Every file, in an order that does not depend on the machine."""
    yield from sorted(path for path in tree.rglob("*") if path.is_file())


def pack(tree: Path, target: Path) -> None:
    """A zip of the tree whose bytes depend on names and contents alone."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as package:
        for path in files(tree):
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, on any machine
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            package.writestr(entry, path.read_bytes(), compresslevel=9)


def _biggest(tree: Path) -> Iterator[str]:
    sizes: dict[str, int] = {}
    for path in files(tree):
        top = path.relative_to(tree).parts[0]
        sizes[top] = sizes.get(top, 0) + path.stat().st_size
    for top, size in sorted(sizes.items(), key=lambda item: -item[1])[:12]:
        yield f"  {size / MIB:6.1f} MiB  {top}"


if __name__ == "__main__":
    main()
