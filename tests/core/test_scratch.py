"""Scratch directories are short, private, and swept when their owner is dead; nobody else's directory is touched."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from udslab.scratch import remove_tree, scratch_directory, sweep

HOLD = """
import sys
from udslab.scratch import scratch_directory
with scratch_directory(sys.argv[1]) as path:
    open(path + "/left", "w").close()
    print(path, flush=True)
    sys.stdin.read()
"""


def hold(parent: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_it_is_private_and_short_and_goes_with_its_content(tmp_path):
    with scratch_directory(str(tmp_path)) as path:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        assert len(path) - len(str(tmp_path)) < 24
        (Path(path) / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_killed_owner_is_swept_by_the_next(tmp_path, environment):
    with hold(tmp_path, environment) as owner:
        path = owner.stdout.readline().strip()
        os.chmod(path, 0o755)
        owner.kill()
        owner.wait()
    assert Path(path, "left").exists()
    with scratch_directory(str(tmp_path)):
        assert not os.path.exists(path)


def test_one_that_is_too_deep_to_be_removed_keeps_nobody_from_having_one(tmp_path, environment, monkeypatch):
    with hold(tmp_path, environment) as owner:
        path = owner.stdout.readline().strip()
        owner.kill()
        owner.wait()

    def too_deep(*arguments, **options):
        raise RecursionError

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", too_deep)
        assert sweep(str(tmp_path)) == []
    assert sweep(str(tmp_path)) == [os.path.dirname(path)]


def test_that_of_a_living_owner_is_kept(tmp_path, environment):
    with hold(tmp_path, environment) as owner:
        path = owner.stdout.readline().strip()
        assert sweep(str(tmp_path)) == []
        assert Path(path, "left").exists()


def test_directories_of_others_with_such_names_are_kept(tmp_path):
    theirs = tmp_path / "udslab-notes"
    (theirs / "d").mkdir(parents=True)
    (theirs / "d" / "work").write_text("x")
    (theirs / ".udslab-scratch").write_text("my own thoughts about scratch directories")
    (tmp_path / "udslab-link").symlink_to(theirs)
    (tmp_path / "udslab-file").write_text("x")
    (tmp_path / "udslab-new_dirs").mkdir(mode=0o700)
    with scratch_directory(str(tmp_path)) as path:
        (tmp_path / "udslab-linked").mkdir()
        (tmp_path / "udslab-linked" / ".udslab-scratch").symlink_to(Path(path).parent / ".udslab-scratch")
        (tmp_path / "udslab-linked" / "d").mkdir()
        assert sweep(str(tmp_path)) == []
    assert (theirs / "d" / "work").read_text() == "x"
    assert len(list(tmp_path.iterdir())) == 5


def test_what_a_user_adds_beside_it_is_kept(tmp_path):
    with scratch_directory(str(tmp_path)) as path:
        work = Path(path).parent / "work"
        work.write_text("x")
    assert work.read_text() == "x"


def test_a_parent_that_may_not_be_read_is_not_swept(tmp_path, as_nobody):
    tmp_path.chmod(0o755)
    drop = tmp_path / "drop"
    drop.mkdir()
    drop.chmod(0o1333)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    source = "import sys, udslab.scratch as s\nwith s.scratch_directory(sys.argv[1]) as d: print('made')"
    done = as_nobody(source, drop, directory=tmp_path)
    assert done.stdout == "made\n", done.stderr
    assert list(drop.iterdir()) == []


def test_many_at_once_get_directories_of_their_own(tmp_path, environment):
    owners = [hold(tmp_path, environment) for _ in range(12)]
    paths = {owner.stdout.readline().strip() for owner in owners}
    assert len(paths) == 12
    assert all(Path(path, "left").exists() for path in paths)
    for owner in owners:
        owner.communicate("")
        assert owner.returncode == 0
    assert list(tmp_path.iterdir()) == []


# A tree


REMOVE = """
import os, sys
from udslab.scratch import remove_tree

top = sys.argv[1]
inner = os.path.join(top, "a", "b", "c")
os.makedirs(inner)
open(os.path.join(inner, "file"), "w").close()
for path in (inner, os.path.dirname(inner), *sys.argv[3:]):
    os.chmod(path, int(sys.argv[2], 8))
remove_tree(top)
print(os.path.exists(top))
"""


@pytest.fixture
def of_nobody(directory) -> Path:
    directory.chmod(0o777)
    directory.parent.chmod(0o755)
    return directory / "top"


DEEP = pytest.mark.xfail(sys.version_info < (3, 13), reason="shutil.rmtree calls itself for each directory")


@pytest.mark.parametrize("mode", ["700", "500", "000"])
@pytest.mark.parametrize("also", [(), ("top",)], ids=["inner", "all"])
def test_an_ordinary_user_can_remove_what_was_locked(as_nobody, of_nobody, mode, also):
    locked = [of_nobody.parent / name for name in also]
    done = as_nobody(REMOVE, of_nobody, mode, *locked, directory=of_nobody.parent.parent)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_no_link_is_followed(as_nobody, of_nobody):
    source = (
        "import os, stat, sys\nfrom udslab.scratch import remove_tree\n"
        "outside, top = sys.argv[1] + '.outside', sys.argv[1]\n"
        "for path in (outside, top, top + '/locked'): os.mkdir(path)\n"
        "open(outside + '/work', 'w').close()\n"
        "for name in ('/link', '/locked/link'): os.symlink(outside, top + name)\n"
        "os.chmod(top + '/locked', 0o500)\n"
        "os.chmod(outside, 0o500)\n"
        "remove_tree(top)\n"
        "remove_tree(outside + '/work')\n"
        "os.symlink(outside, top)\n"
        "remove_tree(top)\n"
        "print(os.listdir(outside), oct(stat.S_IMODE(os.stat(outside).st_mode)), os.path.islink(top))\n"
    )
    done = as_nobody(source, of_nobody, directory=of_nobody.parent.parent)
    assert (done.stdout, done.stderr) == ("['work'] 0o500 True\n", "")


@pytest.mark.parametrize("mode", ["500", "000"])
def test_a_scratch_directory_goes_also_if_what_is_in_it_was_locked(as_nobody, of_nobody, mode):
    source = (
        "import os, sys\nfrom udslab.scratch import scratch_directory\n"
        "with scratch_directory(sys.argv[1]) as path:\n"
        "    os.mkdir(path + '/inner')\n"
        "    open(path + '/inner/file', 'w').close()\n"
        "    os.chmod(path + '/inner', int(sys.argv[2], 8))\n"
        "print(os.listdir(sys.argv[1]))\n"
    )
    done = as_nobody(source, of_nobody.parent, mode, directory=of_nobody.parent.parent)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("depth", [10, pytest.param(1500, marks=DEEP)])
def test_a_tree_is_removed_however_deep_it_is(directory, depth, deepen):
    top = directory / "top"
    top.mkdir()
    deepen(top, "d", depth)
    remove_tree(str(top))
    assert not top.exists()
