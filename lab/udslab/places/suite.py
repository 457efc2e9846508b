"""A project's own test suite, run in a distribution."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from udslab.containers import Mount, Session
from udslab.errors import EngineError, ServiceError, Stage, TimedOut
from udslab.places import images

__all__ = ["Suite"]

_TOLD = 30.0
_PROJECT = ("pyproject.toml", "setup.py")
_SITE = "/site"
_SEEN = "/project"


@dataclass(frozen=True)
class Suite:
    """Tests, and the project that they belong to: the nearest directory above them that can be built, if there is one.

    They are mounted so that they cannot be written. pytest, the project with what it depends on, and the
    ``requirements`` come from wheels for the distribution's Python that this machine gets: containers have no network.
    """

    path: Path
    requirements: Path | None = None
    """A requirements file, as pip has it, of what the tests need besides."""

    @classmethod
    def of(cls, path: str | os.PathLike[str], requirements: str | os.PathLike[str] | None = None) -> Suite:
        """Raises :class:`~udslab.errors.ServiceError` for a path where nothing is, and requirements that are no
        file."""
        absolute = Path(path).resolve()
        if not absolute.exists():
            raise ServiceError(f"no suite is at {path}", "name a file or a directory of tests")
        if requirements is None:
            return cls(absolute)
        if not Path(requirements).is_file():
            raise ServiceError(f"no requirements are at {requirements}", "name a requirements file, as pip has it")
        return cls(absolute, Path(requirements).resolve())

    @property
    def project(self) -> Path | None:
        """The directory of the project."""
        above = [self.path, *self.path.parents] if self.path.is_dir() else list(self.path.parents)
        return next((each for each in above if any((each / name).is_file() for name in _PROJECT)), None)

    def run(self, session: Session, distro: str, *, timeout: float = 600.0) -> tuple[int, str]:
        """pytest's exit status there, and what it has written. The containers run as this process's user.

        Raises :class:`~udslab.errors.EngineError`, also for wheels that cannot be had.
        """
        images.provide(session.engine, distro)
        image = images.image_of(distro)
        shared = session.directory()
        try:
            site = Path(shared.path)
            site.chmod(0o755)
            self._install(site, self._python(session, image))
            top = self.project or (self.path if self.path.is_dir() else self.path.parent)
            inside = os.path.join(_SEEN, os.path.relpath(self.path, top))
            command = ["python3", "-B", "-m", "pytest", "-p", "no:cacheprovider", "-rfE", os.path.normpath(inside)]
            mounts = [
                Mount(_SITE, shared.source, type="bind", read_only=True),
                Mount(_SEEN, str(top), type="bind", read_only=True),
            ]
            user = f"{os.geteuid()}:{os.getegid()}"
            environment = {"PYTHONPATH": _SITE, "HOME": "/tmp"}  # noqa: S108 - in the container
            with session.program(image, command, *mounts, environment=environment, cwd="/tmp", user=user) as program:  # noqa: S108
                try:
                    return program.wait(timeout), program.output()
                except TimedOut:
                    return 1, program.output() + f"\nno end within {timeout:g} s"
        finally:
            session.discard(shared)

    @staticmethod
    def _python(session: Session, image: str) -> str:
        source = "import sys; print('%d.%d' % sys.version_info[:2])"
        with session.program(image, ["python3", "-c", source]) as program:
            if program.wait(_TOLD):
                raise EngineError(Stage.ENGINE, errno.ENOEXEC, None, program.output().strip(), f"{image}: no Python")
            return program.output().strip()

    def _install(self, site: Path, version: str) -> None:
        wheels: list[str] = []
        if self.project is not None:
            house = site / ".wheels"
            _pip("wheel", "--no-deps", "--wheel-dir", str(house), str(self.project))
            wheels = [str(wheel) for wheel in house.glob("*.whl")]
        only = ("--only-binary", ":all:", "--implementation", "cp", "--python-version", version)
        more = () if self.requirements is None else ("--requirement", str(self.requirements))
        _pip("install", "--no-compile", "--target", str(site), *only, *more, *wheels, "pytest")
        shutil.rmtree(site / ".wheels", ignore_errors=True)


def _pip(verb: str, *arguments: str) -> None:
    command = [*_installer(), verb, "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr.strip()[-200:])
        raise EngineError(Stage.ENGINE, errno.ENOPKG, None, said, f"pip {verb} has failed")


def _installer() -> Sequence[str]:
    try:
        import pip  # noqa: F401
    except ImportError:
        found = shutil.which("pip") or shutil.which("pip3")
        if found is None:
            raise EngineError(Stage.ENGINE, errno.ENOPKG, None, "install pip", "a suite's wheels need pip") from None
        return [found, "--disable-pip-version-check"]
    return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
