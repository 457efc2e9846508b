"""``udslab matrix``: what a file may say, and what the command says of one that is wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from udslab.cli.matrix import _engines
from udslab.errors import ServiceError
from udslab.places.container import VOLUMES, Place
from udslab.places.images import distributions
from udslab.places.matrix import Matrix
from udslab.places.pair import Pair

WRONG = {
    "no TOML": ("distros = [", "m.toml: "),
    "empty": ("", "it names no places"),
    "no distributions": ("distros = []", "distros is empty"),
    "nothing but runtimes": ("runtimes = ['runc']", "it names no places"),
    "an unknown distribution": ("distros = ['debian-0']", "no distribution is called 'debian-0'"),
    "an unknown user": ("distros = ['debian-12']\nusers = ['me']", "no user is called 'me'"),
    "an unknown volume": ("distros = ['debian-12']\nvolumes = ['nfs']", "no volume is called 'nfs'"),
    "an unknown key": ("distro = ['debian-12']", "a matrix has no 'distro'"),
    "a word for a list": ("distros = 'debian-12'", "distros is a list of words, not 'debian-12'"),
    "numbers": ("distros = [12]", "distros is a list of words, not [12]"),
    "an empty word": ("distros = ['']", "distros is a list of words"),
    "no list of globs": ("distros = ['debian-12']\nonly = 'BND-*'", "only is a list of globs of ids"),
    "a glob of nothing": ("distros = ['debian-12']\nonly = ['XYZ-*']", "only: no behaviour is called 'XYZ-*'"),
    "no jobs": ("distros = ['debian-12']\njobs = 0", "jobs is a number from 1 to 64, not 0"),
    "no jobs of some places": ("[[places]]\ndistros = ['debian-12']\njobs = 99", "from 1 to 64, not 99"),
    "jobs of no number": ("distros = ['debian-12']\njobs = true", "jobs is a number from 1 to 64, not True"),
    "places of no tables": ("places = 'x'", "places are tables: [[places]]"),
    "places of nothing": ("[[places]]\nusers = ['root']", "[[places]] names no distros"),
    "an unknown key of places": ("[[places]]\nshares = []", "[[places]] has no 'shares'"),
    "pairs of no tables": ("pairs = ['debian-12']", "pairs are tables: [[pairs]]"),
    "one table of pairs": ("[pairs]\ndistros = 'each'", "pairs are tables: [[pairs]]"),
    "pairs of nothing": ("[[pairs]]\n", "distros of [[pairs]] is empty"),
    "each of one": ("distros = ['debian-12']\n[[pairs]]\ndistros = 'each'", "distros of [[pairs]] is empty"),
    "a pair of one": ("[[pairs]]\ndistros = [['debian-12']]", "distros of [[pairs]] is a list of pairs"),
    "a pair of words": ("[[pairs]]\ndistros = ['debian-12', 'debian-13']", "distros of [[pairs]] is a list of pairs"),
    "an unknown one in a pair": ("[[pairs]]\ndistros = [['debian-12', 'nix']]", "no distribution is called 'nix'"),
    "a mapped user in a pair": (
        "[[pairs]]\ndistros = [['debian-12', 'debian-12']]\nusers = [['root', 'userns']]",
        "no user for pairs is called 'userns'",
    ),
    "a volume that is not shared": (
        "[[pairs]]\ndistros = [['debian-12', 'debian-12']]\nvolumes = ['overlay']",
        "no volume for pairs is called 'overlay'",
    ),
    "an unknown namespace": (
        "[[pairs]]\ndistros = [['debian-12', 'debian-12']]\nshares = [['ipc']]",
        "shares of [[pairs]] is a list of lists of some of network, pid",
    ),
    "no list of namespaces": (
        "[[pairs]]\ndistros = [['debian-12', 'debian-12']]\nshares = ['pid']",
        "shares of [[pairs]] is a list of lists",
    ),
    "nothing two-sided": (
        "[[pairs]]\ndistros = [['debian-12', 'debian-12']]\nonly = ['NAM-01']",
        "only of [[pairs]] has no behaviour that is between two places",
    ),
    "an unknown key of pairs": ("[[pairs]]\ndistro = 1", "[[pairs]] has no 'distro'"),
    "an unknown output": ("distros = ['debian-12']\n[output]\npdf = 'x'", "[output] has no 'pdf'"),
    "an output of no name": ("distros = ['debian-12']\n[output]\njson = 1", "json of [output] is the name of a file"),
    "an output of no table": ("distros = ['debian-12']\noutput = 'x'", "[output] is a table"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.toml"


def test_the_labs_own_matrix_has_all_runtimes_with_each_other_and_gvisor_in_each_distribution():
    items = Matrix.load(Path(__file__).parents[2] / "lab" / "images" / "matrix.toml").items
    pairs = [item.where for item in items if isinstance(item.where, Pair)]
    places = {item.where: item for item in items if isinstance(item.where, Place)}
    runtimes = ("runc", "runsc", "runsc-uds")
    assert {(pair.server.runtime, pair.client.runtime) for pair in pairs} == set(itertools.product(runtimes, runtimes))
    debians = {distro for distro in distributions() if distro.startswith("debian")}
    for runtime in ("runc", "runsc"):
        assert {place.distro for place in places if place.runtime == runtime} == debians
    assert {place.volume for place in places} == set(VOLUMES)
    assert {item.jobs for place, item in places.items() if place.runtime != "runc"} == {8}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_in_one_line_that_names_the_file(file, name):
    text, said = WRONG[name]
    file.write_text(text)
    with pytest.raises(ServiceError) as error:
        Matrix.load(file)
    assert str(file) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_text_is_no_matrix(file):
    file.write_bytes(b"\xff")
    with pytest.raises(ServiceError, match="a matrix is a TOML file"):
        Matrix.load(file)


def test_places_are_all_that_its_lists_give(file):
    file.write_text(
        "distros = ['debian-12', 'mine/image:1']\nruntimes = ['runc', 'runsc']\nusers = ['root', 'userns']\n"
        "volumes = ['named']\nonly = ['BND-*']\njobs = 3\n"
    )
    matrix = Matrix.load(file)
    assert len(matrix.items) == 8
    assert str(matrix.items[0]) == "debian-12/runc/root/named"
    assert {(item.only, item.jobs) for item in matrix.items} == {(("BND-*",), 3)}
    assert matrix.results == file.with_suffix(".results")


def test_more_places_may_follow_and_none_comes_twice(file):
    file.write_text(
        "distros = ['debian-12']\nonly = ['BND-*']\njobs = 3\n[[places]]\ndistros = ['debian-12']\n"
        "users = ['root', 'nobody']\nonly = ['NAM-01']\njobs = 8\n[[places]]\ndistros = ['debian-13']\n"
    )
    items = Matrix.load(file).items
    users = [(item.where.distro, item.where.user, item.only, item.jobs) for item in items]
    assert users == [
        ("debian-12", "root", ("BND-*",), 3),
        ("debian-12", "nobody", ("NAM-01",), 8),
        ("debian-13", "root", ("BND-*",), 3),
    ]


def test_pairs_are_each_of_the_others_or_those_that_are_named(file):
    file.write_text(
        "distros = ['debian-11', 'debian-12', 'debian-13']\nruntimes = ['runc', 'runsc']\n"
        "[[pairs]]\ndistros = 'each'\n"
        "[[pairs]]\nruntimes = 'each'\nvolumes = ['bind', 'tmpfs']\n"
        "[[pairs]]\ndistros = [['debian-11', 'debian-13']]\nusers = [['root', 'user']]\nshares = [['network', 'pid']]\n"
    )
    pairs = [str(item) for item in Matrix.load(file).items if "+" in str(item)]
    assert len(pairs) == len(set(pairs)) == 6 + 3 * 4 * 2 + 1
    assert pairs[0] == "debian-11/runc/user+debian-12/runc/other/named/apart"
    assert pairs[-1] == "debian-11/runc/root+debian-13/runc/user/named/network+pid"


def test_what_is_measured_in_one_place_alone_leaves_out_the_pairs(file):
    file.write_text("distros = ['debian-12']\nonly = ['NAM-01']\n[[pairs]]\n")
    assert [str(item) for item in Matrix.load(file).items] == ["debian-12/runc/root/overlay"]


def test_outputs_lie_beside_the_file(file):
    file.write_text("distros = ['debian-12']\n[output]\njson = 'out/a.json'\nresults = 'kept'\n")
    matrix = Matrix.load(file)
    assert matrix.outputs == {"json": file.parent / "out" / "a.json"}
    assert matrix.results == file.parent / "kept"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], []),
        (["-n", "2"], ["-n", "2"]),
        (["--uds-engine", "a", "b", "-k", "x"], ["--uds-engine", "a", "--uds-engine", "b", "-k", "x"]),
        (["-x", "--uds-engine", "a"], ["-x", "--uds-engine", "a"]),
    ],
)
def test_several_engines_may_follow_one_option(words, given):
    assert list(_engines(words)) == given


def test_the_command_says_what_is_wrong_with_the_file_and_ends_with_2(cli, file):
    file.write_text("distros = ['debian-0']")
    done = cli("matrix", file)
    assert done.returncode == 2
    said = (done.stdout + done.stderr).decode()
    assert f"ERROR: {file}: no distribution is called 'debian-0'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_the_command_wants_a_file(cli, complaint, tmp_path, name):
    assert "no matrix is at" in complaint(cli("matrix", tmp_path / name), status=2)


def test_the_command_wants_the_name_of_a_toml_file(cli, complaint, tmp_path):
    (tmp_path / "m.txt").write_text("distros = ['debian-12']")
    assert "no TOML file by its name" in complaint(cli("matrix", tmp_path / "m.txt"), status=2)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--no-such-option"], 2, "unrecognized arguments: --no-such-option"),
        (["-k", "nothing"], 2, "deselected"),
        (["--collect-only", "-q"], 0, "m.toml::debian-12/runc/root/overlay"),
        (["--suite", "/no/such/suite"], 2, "no suite is at /no/such/suite"),
        (["--suite", "/", "--suite-requirements", "/no/such"], 2, "no requirements are at /no/such: name a"),
        (["--suite", "/", "--suite-requirements", "/"], 2, "no requirements are at /: name a"),
        (["--suite-requirements", "/no/such"], 2, "--uds-suite-requirements is for a suite"),
        (["--uds-engine", "unix:///nowhere/s"], 1, "no engine is there"),
    ],
)
def test_the_commands_exit_status_is_that_of_all_commands(cli, file, options, status, said):
    file.write_text("distros = ['debian-12']\nonly = ['NAM-01']")
    done = cli("matrix", file, *options)
    assert said in (done.stdout + done.stderr).decode()
    assert done.returncode == status


def test_a_suite_wants_distributions(cli, file):
    file.write_text("[[pairs]]\ndistros = [['debian-12', 'debian-12']]")
    done = cli("matrix", file, "--suite", file.parent)
    assert done.returncode == 2
    assert "--uds-suite is for a matrix with distros" in (done.stdout + done.stderr).decode()
