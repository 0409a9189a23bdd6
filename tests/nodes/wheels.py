"""Wheels for tests, made without an index: of a few files, or of a package that is installed."""

from __future__ import annotations

import importlib.metadata
import zipfile
from collections.abc import Mapping
from pathlib import Path


def wheel_of_files(folder: Path, name: str, version: str, files: Mapping[str, str | bytes]) -> Path:
    """A pure Python wheel with these files by their paths."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: muster tests\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, *metadata, f"{info}/RECORD"))
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, content in {**files, **metadata, f"{info}/RECORD": record}.items():
            archive.writestr(inner, content)
    return path


def wheel_of_installed(folder: Path, name: str) -> Path:
    """The pure Python package of that name, as this interpreter has it."""
    root = importlib.metadata.distribution(name).locate_file(name)
    package = Path(str(root))
    files = {
        str(path.relative_to(package.parent)): path.read_bytes()
        for path in package.rglob("*.py")
        if "test" not in path.parts
    }
    return wheel_of_files(folder, name, importlib.metadata.version(name), files)
