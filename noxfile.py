"""Everything that is checked or built, one session each: ``nox -l`` lists them.

The sessions that need torch (`types`, `tests_nnunet`, `faults`, `bench`, `demo`, `train_demo_model`) run in
the environment that nox itself runs in, which ``make setup`` or ``make develop`` has filled: a second
installation of torch would cost more than all the rest. The others have small environments of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ["3.11", "3.12", "3.13"]
BINDINGS = {"pyqt5": "gui", "pyqt6": "gui-qt6"}
PACKAGES = ["cryomamba_core", "cryomamba_backends", "cryomamba_gui", "cryomamba_server"]
#: Parts of the core that plugins do not import; strict mypy checks them as it does the rest.
NOT_OFFERED = ("cryomamba_core.cli.", "cryomamba_core.worker.")
#: Where programs that ours is measured against are installed.
PEERS = "build/peers"
CHECKED = ["src", "plugins", "tests", "benchmarks", "tools", "docs", "noxfile.py"]

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "virtualenv"  # constraints.txt is meant for pip
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.sessions = [
    "lint",
    "imports",
    "types",
    "docs",
    "package",
    "plugins",
    "tests",
    "tests_gui",
    "faults",
    "tests_nnunet",
]


def put_pyenv_interpreters_first() -> None:
    """Let nox find interpreters that pyenv has installed but not selected; its shims for those fail."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in PYTHONS:
        for folder in sorted((root / "versions").glob(f"{version}.*/bin")):
            os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def keep_what_python_compiles() -> None:
    """Let Python keep bytecode: tests start many processes, and each of them would compile the whole package."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


put_pyenv_interpreters_first()
keep_what_python_compiles()


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Style, spelling and the project file; the hooks of pre-commit run the same programs."""
    session.install(*_group("lint"))
    session.run("ruff", "check", *CHECKED)
    session.run("ruff", "format", "--check", *CHECKED)
    session.run("codespell", *CHECKED, "README.md", "CONTRIBUTING.md", "changelog.d")
    session.run("validate-pyproject", "pyproject.toml")


@nox.session(python=PYTHONS[0])
def imports(session: nox.Session) -> None:
    """Which part may import which."""
    session.install(*_group("imports"))
    session.install("--no-deps", "--editable", ".")
    session.run("lint-imports", "--no-cache")


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """Strict mypy, and the completeness of what the core offers to plugin authors."""
    _require(session, "mypy", "pyright", "torch")
    session.run(sys.executable, "-m", "mypy", *(f"--package={package}" for package in PACKAGES))
    verify = [sys.executable, "-m", "pyright", "--verifytypes", "cryomamba_core", "--ignoreexternal"]
    said = session.run(*verify, "--outputjson", env={"PYTHONPATH": "src"}, silent=True, success_codes=[0, 1], log=False)
    report = json.loads(str(said))["typeCompleteness"]
    unknown = [
        symbol["name"]
        for symbol in report["symbols"]
        if symbol["isExported"] and not symbol["isTypeKnown"] and not symbol["name"].startswith(NOT_OFFERED)
    ]
    session.log(f"pyright: {report['exportedSymbolCounts']['withKnownType']} exported symbols have a known type")
    if unknown or not report["symbols"]:
        session.error(f"pyright does not know the types of {', '.join(unknown) or 'anything'}")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Core, client, server and file formats, without torch; as many tests at a time as there are processors.

    Between the oldest and the newest Python, tests of the server and of the command line are left out unless named; the
    oldest alone runs those that are marked with ``once``.
    """
    session.install("--editable", ".[server]", *_group("test"))
    elsewhere = ["backends/nnunet", "faults", "gui"]
    if session.python not in (PYTHONS[0], PYTHONS[-1]) and not session.posargs:
        elsewhere += ["core/cli", "integration", "server"]
    wanted = [] if session.python == PYTHONS[0] or session.posargs else ["-m", "not once"]
    _pytest(session, "-n", "auto", *wanted, *(f"--ignore=tests/{folder}" for folder in elsewhere), *session.posargs)


@nox.session(python=PYTHONS[0])
@nox.parametrize("binding", list(BINDINGS), ids=list(BINDINGS))
def tests_gui(session: nox.Session, binding: str) -> None:
    """The desktop: real windows, on a screen of their own where there is Xvfb, and real servers."""
    session.install("--editable", f".[{BINDINGS[binding]},server]", *_group("gui-test"))
    session.run("npe2", "validate", "--imports", "cryomamba")
    folder = Path("tests/gui")
    of_windows = [folder / "qt", *sorted(folder.glob("test_*.py"))]  # the rest knows no Qt, or only what napari draws
    wanted = [str(folder)] if binding == "pyqt6" else [str(path) for path in of_windows]
    _on_screen(session, "-m", "pytest", "-n", "auto", *(session.posargs or wanted), env={"QT_API": binding})


@nox.session(python=False)
def screenshots(session: nox.Session) -> None:
    """Pictures of the desktop in every state, for the documentation; a real server segments meanwhile."""
    _require(session, "PyQt6", "napari", "torch")
    folder = session.posargs[0] if session.posargs else "docs/_static/desktop"
    _on_screen(session, "tools/screenshots.py", folder, *session.posargs[1:], env={"QT_API": "pyqt6"})


@nox.session(python=False)
def tests_nnunet(session: nox.Session) -> None:
    """Everything that needs torch: equality with stock nnU-Net, and the demonstration.

    As many tests at a time as there are processors, whose threads therefore do not spin for long while they wait.
    """
    _require(session, "torch", "nnunetv2", "pytest")
    wanted = session.posargs or _tests_that_need_torch()
    _pytest(session, "-n", "auto", "--dist", "loadgroup", *wanted, env={"GOMP_SPINCOUNT": "10000"})


@nox.session(python=False)
def faults(session: nox.Session) -> None:
    """Workers, engines and servers that are killed, full disks, lines that are cut, clients that stall."""
    _require(session, "pytest", "sqlalchemy")
    _pytest(session, "-n", "auto", "tests/faults", *session.posargs)


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """The documentation, without a warning."""
    session.install("--editable", ".[server]", *_group("docs"))
    session.run("sphinx-build", "-E", "-W", "-n", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")
    session.log("open docs/_build/html/index.html")


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Every number that the documentation quotes; all benchmarks, or those that are named."""
    wanted = session.posargs or sorted(path.stem for path in Path("benchmarks").glob("*.py"))
    if not Path(PEERS).exists() and any(name.startswith("nnunet") for name in wanted):
        peers = ["--no-deps", "--target", PEERS, *_group("peers")]  # what they need is here, and torch stays as it is
        session.run(sys.executable, "-m", "pip", "install", "--quiet", *peers, success_codes=range(256))
    for name in wanted:
        session.run(sys.executable, f"benchmarks/{name}.py")


@nox.session(python=False)
def demo(session: nox.Session) -> None:
    """The demonstration: a synthetic tomogram, segmented by the model that ships with the package."""
    _require(session, "torch")
    session.run(sys.executable, "-m", "cryomamba_core.cli.main", "demo", "--out", "demo-output", *session.posargs)


@nox.session(python=False)
def train_demo_model(session: nox.Session) -> None:
    """Train the demonstration model from nothing with stock nnU-Net (about an hour on two cores)."""
    _require(session, "nnunetv2")
    folder, *options = session.posargs or ["build/demo-model"]
    session.run(sys.executable, "tools/train_demo_model.py", folder, *options)
    session.run(sys.executable, "tools/bundle_demo_model.py", folder)


@nox.session(python=PYTHONS[0])
def package(session: nox.Session) -> None:
    """The wheel, built from the source distribution and installed alone into a clean environment."""
    session.install("build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist", silent=True)
    (wheel,) = (ROOT / "dist").glob("cryomamba-*.whl")
    session.run("python", "tools/check_wheel.py", str(wheel))
    clean = Path(session.create_tmp()) / "clean"
    shutil.rmtree(clean, ignore_errors=True)
    session.run("python", "-m", "venv", str(clean))
    python = str(clean / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
    session.run(python, "tools/check_installation.py", external=True)


@nox.session(python=PYTHONS[0])
def plugins(session: nox.Session) -> None:
    """The wheel of each separately installable plugin, in an environment with the package alone."""
    found = sorted(path.parent for path in Path("plugins").glob("*/pyproject.toml"))
    if not found:
        session.skip("there is no separately installable plugin yet")
    session.install("build", "--editable", ".[server]", *_group("test"))
    for folder in found:
        wheels = Path(session.create_tmp()) / folder.name
        shutil.rmtree(wheels, ignore_errors=True)
        session.run("python", "-m", "build", "--wheel", "--outdir", str(wheels), str(folder), silent=True)
        session.install("--force-reinstall", "--no-deps", *map(str, wheels.glob("*.whl")))
        session.install(*map(str, wheels.glob("*.whl")))
        _pytest(session, str(folder / "tests"))


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name))


def _pytest(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    python = sys.executable if session.python is False else "python"
    session.run(python, "-m", "pytest", *arguments, env=env)


def _on_screen(session: nox.Session, *words: str, env: dict[str, str]) -> None:
    """Run Python where there is a screen: one that nobody sees, if Xvfb is installed, else that of this computer."""
    hidden = (
        ["xvfb-run", "--auto-servernum", "--server-args=-screen 0 1600x1000x24"] if shutil.which("xvfb-run") else []
    )
    if not hidden and sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        session.error("there is no screen: install xvfb")
    python = sys.executable if session.python is False else "python"
    session.run(*hidden, python, *words, env=env, external=bool(hidden))


def _require(session: nox.Session, *modules: str) -> None:
    """Stop with the command that helps, unless nox runs in an environment that has `modules`."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        session.error(f"{', '.join(missing)} not found beside nox: run 'make develop', then '.venv/bin/nox'")


def _tests_that_need_torch() -> list[str]:
    folder = Path("tests/backends/nnunet")
    elsewhere = (path for path in Path("tests").rglob("test_*.py") if folder not in path.parents)
    return [str(folder), *sorted(str(path) for path in elsewhere if 'importorskip("torch"' in path.read_text())]
