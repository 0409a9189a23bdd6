"""Makes a Python environment on a node; the broker runs it there, by whatever Python it finds.

Standard input: one line of JSON. Standard output: lines "progress TEXT", and "error TEXT" before
exit code 1. The environment stands in CACHE/environments/DIGEST; its file `ready`, written last,
holds the interpreter's path and version.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys

NEEDED = ("joblib", "cloudpickle")
TAIL_LINES = 15


class Problem(Exception):
    """A person must mend this; the text says how."""


def tell(kind, text):
    print(kind, " ".join(text.split()), flush=True)


def version_of(interpreter):
    """ "3.11", or nothing if that is no Python."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [interpreter, "-I", "-c", code],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode().strip() if done.returncode == 0 else None


def find_interpreter(wanted, needed):
    if re.fullmatch(r"\d+(\.\d+)*", wanted):
        names = ["python" + wanted, "python3", "python"]
        wanted_version = ".".join(wanted.split(".")[:2])
    else:
        names = [os.path.expanduser(wanted)]
        wanted_version = ""
    seen = []
    for name in names:
        path = shutil.which(name)
        version = version_of(path) if path else None
        if version is None:
            continue
        seen.append(f"{path} is {version}")
        if wanted_version and version != wanted_version and "." in wanted_version:
            continue
        if version != needed:
            continue
        return path
    found = "; ".join(seen) or "none of {} is there".format(", ".join(names))
    raise Problem(
        f"python = {wanted!r}: the broker's Muster runs Python {needed}, and the node has no such "
        f"one ({found}): install python{needed} there, or give its path"
    )


def run(command, what, environment=None):
    """Streams its output as progress; Problem with the last lines when it fails."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        universal_newlines=True,
        errors="replace",
    )
    lines = []
    for text in process.stdout:
        line = text.strip()
        if line:
            lines = [*lines[1 - TAIL_LINES :], line]
            tell("progress", f"{what}: {line[:200]}")
    if process.wait() != 0:
        errors = [line for line in lines if line.startswith("ERROR")]  # as pip marks them
        tail = " | ".join(errors or lines)
        if "No space left" in tail:
            tail = "the node's disk is full: " + tail
        raise Problem("{} failed: {}".format(what, tail or "no output"))


# Exits with 0 when the interpreter has all that its arguments require.
_HAS_ALL = """
import importlib.metadata, sys
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
for text in sys.argv[1:]:
    wanted = Requirement(text)
    if wanted.marker is not None and not wanted.marker.evaluate():
        continue
    version = importlib.metadata.version(wanted.name)
    if wanted.url or wanted.extras or not wanted.specifier.contains(version, prereleases=True):
        sys.exit(1)
"""


def has_all(interpreter, requirements):
    """Whether nothing needs to be installed; what cannot be told counts as missing."""
    done = subprocess.run(
        [interpreter, "-I", "-c", _HAS_ALL, *requirements],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == 0


def make_virtual_environment(interpreter, folder):
    tell("progress", "making a virtual environment")
    try:
        run([interpreter, "-m", "venv", folder], "venv")
    except Problem as problem:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            run([interpreter, "-m", "virtualenv", folder], "virtualenv")
        except Problem:
            advice = "; install the module there: apt install python3-venv"
            raise Problem(str(problem) + advice) from None
    return os.path.join(folder, "bin", "python")


def install(python, wanted):
    requirements = list(wanted["pip"])
    words = (re.split(r"[^A-Za-z0-9_.-]", text.strip(), maxsplit=1) for text in requirements)
    named = {name.lower() for name, *_ in words}
    requirements += [name for name in NEEDED if name not in named]
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    if wanted["wheels"]:
        command += ["--no-index", "--find-links", wanted["wheels"]]
    run([*command, "--", *requirements], "pip")


def check(python, wanted):
    """Muster and what it needs can be imported."""
    # Who asked for Python may use joblib; who did not is served with what is there.
    needed = NEEDED[-1:] if wanted["optional"] else NEEDED
    environment = dict(os.environ, PYTHONPATH=os.path.join(wanted["bundle"], "python"))
    environment.pop("PYTHONHOME", None)
    for module in needed:
        done = subprocess.run(
            [python, "-c", "import " + module],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        if done.returncode != 0:
            raise Problem(
                f"Python on the node ({python}) has no {module}: add "
                'pip = ["joblib", "cloudpickle"] '
                "to the host, or install it there"
            )
    tell("progress", "starting Python")
    run([python, "-m", "muster.runner", "--version"], "muster.runner", environment)


def prepare(wanted):
    environments = os.path.join(wanted["cache"], "environments")
    os.makedirs(environments, mode=0o700, exist_ok=True)
    folder = os.path.join(environments, wanted["digest"])
    ready = os.path.join(folder, "ready")
    with open(os.path.join(environments, ".lock-" + wanted["digest"]), "w") as lock:
        tell("progress", "waiting for another preparation of the same environment")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(ready):
            with open(ready) as file:
                if os.access(file.readline().strip(), os.X_OK):
                    return
        interpreter = find_interpreter(wanted["python"], wanted["bundle_python"])
        shutil.rmtree(folder, ignore_errors=True)
        try:
            if wanted["pip"] and (wanted["wheels"] or not has_all(interpreter, wanted["pip"])):
                interpreter = make_virtual_environment(interpreter, folder)
                install(interpreter, wanted)
            else:
                os.makedirs(folder, mode=0o700)
            check(interpreter, wanted)
            with open(ready + ".part", "w") as file:
                file.write("{}\n{}\n".format(interpreter, wanted["bundle_python"]))
            os.rename(ready + ".part", ready)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def main():
    os.umask(0o077)
    try:
        prepare(json.loads(sys.stdin.readline()))
    except Problem as problem:
        tell("error", str(problem))
        return 1
    except OSError as error:
        tell("error", f"cannot make the Python environment: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
