from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, create, noise, normal_user, strict_json, tree, without_times
from PIL import Image

Program = Callable[..., Run]
FAST = """
[defaults]
n = 3
candidates = 16
chains = 1
steps = 4
size = 16
device = "cpu"
workers = 0
channels = [8, 8]
"""
THREE = f"""{FAST}
[jobs.one]
source = "source"
destination = "out/one"
[jobs.two]
source = "absent"
destination = "out/two"
[jobs.three]
source = "source"
destination = "out/three"
n = 5
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


Batch = Callable[..., Run]


@pytest.fixture
def batch(imgsubset: Program, tmp_path: Path, folder: Path) -> Batch:
    """Run a batch of this text, which stands in a file beside the folder `source`."""
    assert folder == tmp_path / "source"

    def run(text: str, *more: object) -> Run:
        (tmp_path / "jobs.toml").write_text(text, encoding="utf-8")
        return imgsubset("batch", tmp_path / "jobs.toml", *more)

    return run


def job(lines: str, name: str = "one") -> str:
    """The defaults and one job of these lines."""
    return f'{FAST}\n[jobs.{name}]\nsource = "source"\n{lines}\n'


def options(run: Run) -> dict[str, Any]:
    """The options that the only job of a run with --json was done with."""
    assert (run.code, len(strict_json(run.out)["jobs"])) == (0, 1), run
    record = strict_json(run.out)["jobs"][0]["result"]["options"]
    assert isinstance(record, dict)
    return record


def weights(*values: float) -> dict[str, float]:
    """The record of five weights."""
    return dict(zip(("kl", "js", "wasserstein", "hellinger", "frechet"), values, strict=True))


def statuses(run: Run) -> dict[str, tuple[str, int]]:
    return {one["name"]: (one["status"], one["exit_code"]) for one in strict_json(run.out)["jobs"]}


def check_refused(run: Run, out: Path, *culprits: str, code: int = 2) -> None:
    assert (run.code, run.out) == (code, ""), run
    assert run.err.startswith("imgsubset: error: ")
    assert run.err.count("\n") == 1
    for culprit in culprits:
        assert culprit in run.err
    assert not out.exists()


# Some jobs fail


@pytest.mark.parametrize("report", ["source", "absent/report.html"])
def test_a_report_that_cannot_be_written_is_refused_before_any_job(batch: Batch, tmp_path: Path, report: str) -> None:
    run = batch(job('destination = "out"'), "--report", tmp_path / report)
    check_refused(run, tmp_path / "out", f"--report '{tmp_path / report}' is a folder, or lies in none")


@pytest.mark.slow
def test_the_jobs_after_a_failing_one_are_done_and_a_rerun_does_what_is_left(
    batch: Batch, folder: Path, tmp_path: Path
) -> None:
    first = batch(THREE)
    assert first.code == 8
    lines = first.err.splitlines()
    assert lines[:3] == ["[1/3] one", "[2/3] two", "[3/3] three"]
    assert lines[3].startswith("imgsubset: error: 1 of 3 jobs of ")
    assert " failed: two: cannot read source" in lines[3]
    assert len(lines) == 4
    rows = [line.split() for line in first.out.splitlines()]
    assert rows[0] == ["job", "status", "n", "loss", "size"]
    assert [row[:3] for row in rows[1:4]] == [["one", "done", "3"], ["two", "failed"], ["three", "done", "5"]]
    assert "absent': No such file" in first.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one", "three"]
    before = tree(tmp_path / "out")
    os.symlink("source", tmp_path / "absent")
    second = batch(THREE)
    assert second.code == 0
    assert second.err.splitlines() == ["[1/3] one", "[2/3] two", "[3/3] three"]
    rows = [line.split() for line in second.out.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["one", "skipped", "3"], ["two", "done", "3"], ["three", "skipped", "5"]]
    after = tree(tmp_path / "out")
    assert {path: value for path, value in after.items() if not path.startswith("two/")} == before
    assert len(after) == 4 + 4 + 6


@pytest.mark.slow
def test_json_of_a_batch_is_one_object(batch: Batch, tmp_path: Path) -> None:
    first = batch(THREE, "--json")
    assert first.code == 8
    assert statuses(first) == {"one": ("done", 0), "two": ("failed", 3), "three": ("done", 0)}
    jobs = strict_json(first.out)["jobs"]
    assert "No such file" in jobs[1]["error"]
    assert (jobs[0]["error"], jobs[1]["result"]) == (None, None)
    for one in (jobs[0], jobs[2]):
        record = dict(one["result"])
        assert record.pop("destination") == str(tmp_path / "out" / one["name"])
        assert without_times(record) == strict_json((tmp_path / "out" / one["name"] / "manifest.json").read_text())
    os.symlink("source", tmp_path / "absent")
    second = batch(THREE, "--json")
    assert second.code == 0
    assert statuses(second) == {"one": ("skipped", 0), "two": ("done", 0), "three": ("skipped", 0)}
    skipped = strict_json(second.out)["jobs"][0]
    assert without_times(skipped.pop("result")) == without_times(jobs[0].pop("result"))
    assert skipped == jobs[0] | {"status": "skipped"}


@pytest.mark.slow
def test_a_quiet_batch_prints_only_its_failures(batch: Batch, tmp_path: Path) -> None:
    run = batch(THREE, "-q")
    assert (run.code, run.out) == (8, "")
    assert "two" in run.err
    assert "[1/3]" not in run.err
    os.symlink("source", tmp_path / "absent")
    assert batch(THREE, "-q") == Run(0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("max_loss", ["1e-9", "0"])
def test_a_job_above_its_highest_loss_has_failed(batch: Batch, tmp_path: Path, max_loss: str) -> None:
    text = job(f'destination = "out/one"\nmax-loss = {max_loss}') + (
        '[jobs.two]\nsource = "source"\ndestination = "out/two"\nmax_loss = 1000\n'
    )
    run = batch(text, "--json")
    assert run.code == 8
    assert statuses(run) == {"one": ("failed", 6), "two": ("done", 0)}
    jobs = strict_json(run.out)["jobs"]
    assert "--max-loss" in jobs[0]["error"]
    assert jobs[0]["result"]["destination"] is None
    assert jobs[0]["result"]["score"] == jobs[1]["result"]["score"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two"]
    text = batch(text).out
    assert f"{jobs[0]['result']['score']['loss']:.3f}" in text.splitlines()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ('destination = "full"', 5),
        ('destination = "out/one"\nn = 99', 3),
        ('destination = "source/out"', 2),
        ('destination = "out/one"\nstrict = true', 4),
        ('destination = "out/one"\nlist = "absent/list"', 2),
    ],
)
def test_whatever_fails_in_a_job_ends_that_job_alone(
    batch: Batch, folder: Path, tmp_path: Path, lines: str, code: int
) -> None:
    create(tmp_path / "full" / "notes.txt", b"mine")
    create(folder / "broken.png")
    two = '[jobs.two]\nsource = "source"\ndestination = "out/two"\n'
    run = batch(job(lines) + two, "--json")
    assert run.code == 8
    assert statuses(run) == {"one": ("failed", code), "two": ("done", 0)}


@pytest.mark.parametrize(
    "text",
    [
        job('destination = "out/\\u0000one"'),
        job('destination = "out/one"\ncache = "a\\u0000b"'),
        job('destination = "out/one"').replace('"source"', '"a\\u0000b"'),
        job('destination = "out/one"').replace('"source"', '""'),
        job('destination = ""'),
    ],
)
def test_what_no_file_can_be_called_is_refused_before_any_work(batch: Batch, tmp_path: Path, text: str) -> None:
    two = '[jobs.two]\nsource = "source"\ndestination = "out/two"\n'
    check_refused(batch(text + two), tmp_path / "out", "[jobs.one]", "is not a path")


def test_an_interrupt_ends_the_batch(batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("imgsubset.tasks.select.select", interrupted)
    run = batch(job('destination = "out/one"'))
    assert run.code == 130
    assert not (tmp_path / "out").exists()


# What the file says


@pytest.mark.slow
def test_paths_start_from_the_folder_of_the_file(
    batch: Batch, imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    lines = f'destination = "out/one"\nlist = "lists.txt"\ncache = "kept"\n[jobs.two]\nsource = "{folder}"\n'
    lines += f'destination = "{tmp_path}/out/two"\nmode = "symlink"'
    (tmp_path / "jobs.toml").write_text(job(lines))
    assert imgsubset("batch", "../jobs.toml").code == 0
    assert not list(elsewhere.iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one", "two"]
    assert len(list((tmp_path / "kept").iterdir())) == 4 + 3 + 1  # what is searched, what measures, and looks
    listed = (tmp_path / "lists.txt").read_text().splitlines()
    assert len(listed) == 3
    assert all(Path(line).is_file() for line in listed)
    for path in strict_json((tmp_path / "out/two/manifest.json").read_text())["files"]:
        assert (tmp_path / "out/two" / path["path"]).samefile(folder / path["path"])
    monkeypatch.chdir(tmp_path)
    assert imgsubset("batch", "jobs.toml", "--json").out.count('"skipped"') == 2


@pytest.mark.slow
def test_a_job_overrides_the_defaults(batch: Batch) -> None:
    text = f"""{FAST}
seed = 4
weights = "kl=1"
[jobs.one]
source = "source"
destination = "out/one"
[jobs.two]
source = "source"
destination = "out/two"
seed = 5
n = "50%"
"""
    run = batch(text, "--json")
    assert run.code == 0
    one, two = (result["result"] for result in strict_json(run.out)["jobs"])
    assert (one["options"]["seed"], one["n"], two["options"]["seed"], two["n"]) == (4, 3, 5, 4)
    for result in (one, two):
        assert result["options"]["weights"] == weights(1, 0, 0, 0, 0)
        assert (result["options"]["steps"], result["options"]["candidates"]) == (4, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("default", "own", "value"),
    [
        ("kernel_size = 5", "kernel-size = 1", 1),
        ("kernel-size = 5", "kernel_size = 1", 1),
        ("kernel_size = 5", "", 5),
        ("kernel-size = 5", "", 5),
    ],
)
def test_keys_have_dashes_or_underscores(batch: Batch, default: str, own: str, value: int) -> None:
    text = job(f'destination = "out"\n{own}').replace("[defaults]", f"[defaults]\n{default}")
    assert options(batch(text, "--json"))["kernel_size"] == [value]


def test_a_key_in_both_spellings_is_refused(batch: Batch, tmp_path: Path) -> None:
    run = batch(job('destination = "out"\nkernel_size = 5\nkernel-size = 1'))
    check_refused(run, tmp_path / "out", "kernel")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "name", "value"),
    [
        ("channels = [8, 4]", "channels", [8, 4]),
        ('channels = "8,4"', "channels", [8, 4]),
        ("channels = 8", "channels", [8]),
        ("weights = {kl = 1, frechet = 2.5}", "weights", weights(1, 0, 0, 0, 2.5)),
        ("weights = [1, 2, 3, 4, 5]", "weights", weights(1, 2, 3, 4, 5)),
        ('weights = "kl=1,frechet=2"', "weights", weights(1, 0, 0, 0, 2)),
        ('time-limit = "1h"', "time_limit", 3600),
        ("time_limit = 90", "time_limit", 90),
        ("seed = 0x10", "seed", 16),
        ("temperature = 1e-3", "temperature", 0.001),
        ("strict = true", "strict", True),
        ("strict = false", "strict", False),
        ("no-cache = true", "cache", None),
    ],
)
def test_values_mean_what_they_mean_on_the_command_line(batch: Batch, lines: str, name: str, value: object) -> None:
    assert options(batch(job(f'destination = "out"\n{lines}'), "--json"))[name] == value


@pytest.mark.slow
def test_every_option_of_select_is_a_key(batch: Batch, tmp_path: Path) -> None:
    lines = """destination = "out"
mode = "hardlink"
overwrite = true
list = "list"
null = true
ranked = true
dry-run = false
max-loss = 100
workers = 1
friction = 2
langevin-time = 0.2
"""
    assert options(batch(job(lines), "--json"))["langevin_time"] == 0.2
    assert (tmp_path / "list").read_bytes().count(b"\0") == 3
    assert len((tmp_path / "out" / "ranked.txt").read_text().splitlines()) == 3
    assert strict_json((tmp_path / "out" / "manifest.json").read_text())["request"]["mode"] == "hardlink"


@pytest.mark.parametrize("key", ["resume", "cache-verify", "cache_verify"])
def test_a_key_that_was_taken_out_is_told_what_became_of_it(batch: Batch, tmp_path: Path, key: str) -> None:
    run = batch(job(f'destination = "out"\n{key} = "state"'))
    check_refused(run, tmp_path / "out", f"unknown key '{key.replace('_', '-')}' in [jobs.", "it was taken out, since")


@pytest.mark.slow
def test_a_job_without_copies_needs_no_destination(batch: Batch, tmp_path: Path) -> None:
    run = batch(job('mode = "none"\nlist = "list"\nn = "auto"\ntarget-size = 5'), "--json")
    assert run.code == 0
    assert statuses(run) == {"one": ("done", 0)}
    count = strict_json(run.out)["jobs"][0]["result"]["n"]
    assert len((tmp_path / "list").read_text().splitlines()) == count


# What makes no sense is refused before any work


@pytest.mark.parametrize(
    ("text", "culprits"),
    [
        (job('destination = "out"\nsteeps = 3'), ("'steeps'", "'steps'", "[jobs.one]")),
        (job('destination = "out"\nmax_los = 3'), ("'max-los'", "'max-loss'", "[jobs.one]")),
        (job('destnation = "out"'), ("'destnation'", "'destination'")),
        (job('destination = "out"\njson = true'), ("'json'",)),
        (job('destination = "out"\nhelp = true'), ("'help'",)),
        (job('destination = "out"\n"" = true'), ("''",)),
        (job('destination = "out"\n"\\u001b[31m" = true'), ("'\\x1b[31m'",)),
        (job('destination = "out"').replace("[defaults]", "[defaults]\nsede = 1"), ("'sede'", "'seed'", "[defaults]")),
        (job('destination = "out"').replace("[defaults]", "[default]"), ("'default'", "'defaults'")),
        (job('destination = "out"\n[job.two]'), ("'job'", "'jobs'")),
        (job('destination = "out"', "one.sub"), ("'sub'", "[jobs.one]")),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(
    batch: Batch, tmp_path: Path, text: str, culprits: tuple[str, ...]
) -> None:
    check_refused(batch(text), tmp_path / "out", "jobs.toml", *culprits)


@pytest.mark.parametrize(
    ("lines", "culprit"),
    [
        ("n = 0", "n '0'"),
        ("n = true", "n"),
        ("n = [3]x", "TOML"),
        ("n = 1.5", "n '1.5'"),
        ("n = 1979-05-27", "'n'"),
        ("n = 'auto'", "n 'auto'"),
        ("seed = 'many'", "many"),
        ("seed = true", "seed"),
        ("seed = false", "seed"),
        ("seed = [1, 2]", "[1, 2]"),
        ("seed = {a = 1}", "{'a': 1}"),
        ("seed = 1979-05-27T07:32:00Z", "'seed'"),
        ("weights = {chi = 1}", "'chi'"),
        ("weights = {kl = true}", "kl"),
        ("weights = true", "weights"),
        ("weights = []", "weights"),
        ("weights = {}", "weights"),
        ("channels = [[8], [4]]", "channels"),
        ("channels = ['x']", "channels"),
        ("mode = 'move'", "move"),
        ("mode = true", "mode"),
        ("max-loss = 'low'", "low"),
        ("time-limit = nan", "time_limit"),
        ("overwrite = 'yes'", "overwrite"),
        ("overwrite = 1", "overwrite"),
        ("overwrite = {}", "overwrite"),
        ("null = true", "--list"),
        ('list = "-"', "cannot be '-'"),
        ("list = true", "list"),
        ("list = ['a', 'b']", "list"),
        ("list = {a = 1}", "list"),
        ("cache = true", "cache"),
        ("cache = false", "cache"),
        ("embeddings = 'x.npy'", "--paths"),
        ("pca = 3", "--embeddings"),
        ("target-loss = 0.5", "target"),
        ("device = 'tpu'", "tpu"),
    ],
)
@pytest.mark.parametrize("place", ["job", pytest.param("defaults", marks=pytest.mark.slow)])
def test_a_wrong_value_is_named_before_any_work(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, culprit: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    good = '[jobs.good]\nsource = "source"\ndestination = "out/good"\n'
    if place == "job":
        text = FAST + good + f'[jobs.bad]\nsource = "source"\ndestination = "out/bad"\n{lines}\n'
    else:
        key = lines.split(" = ")[0]
        kept = "\n".join(line for line in FAST.splitlines() if not line.startswith(f"{key} ="))
        text = f"{kept}\n{lines}\n{good}"
    before = set(tree(tmp_path))
    check_refused(batch(text), tmp_path / "out", culprit)
    assert set(tree(tmp_path)) == before | {"jobs.toml"}


@pytest.mark.parametrize("value", ["true", "['a', 'b']", "{a = 1}", "1979-05-27"])
@pytest.mark.parametrize("key", ["source", "destination"])
def test_a_path_that_is_no_text_is_refused(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {"source": '"source"', "destination": '"out"'} | {key: value}
    text = f"{FAST}\n[jobs.one]\n" + "\n".join(f"{name} = {path}" for name, path in paths.items())
    check_refused(batch(text), tmp_path / "out", key)


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("", "no jobs"),
        (FAST, "no jobs"),
        ("[jobs]", "no jobs"),
        ("jobs = 3", "[jobs]"),
        ("[[jobs]]\nn = 3", "[jobs]"),
        ("[jobs]\none = 3", "[jobs.one]"),
        ("defaults = 3\n[jobs.one]", "[defaults]"),
        ('[jobs.one]\ndestination = "out"\nn = 3', "source"),
        ('[jobs.one]\nsource = "source"\nn = 3', "destination"),
        ('[jobs.one]\nsource = "source"\ndestination = "out"', "n"),
        ("[jobs.one", "TOML"),
        ("a = 1\na = 2", "TOML"),
        ("{}", "TOML"),
        ("x = " + "[" * 5000, "TOML"),
    ],
)
def test_a_file_without_sense_is_refused(batch: Batch, tmp_path: Path, text: str, culprit: str) -> None:
    check_refused(batch(text), tmp_path / "out", "jobs.toml", culprit)


def test_bytes_that_are_no_text_are_no_toml(imgsubset: Program, tmp_path: Path) -> None:
    create(tmp_path / "jobs.toml", b"\xff\xfe\x00")
    check_refused(imgsubset("batch", tmp_path / "jobs.toml"), tmp_path / "out", "is not TOML")


@pytest.mark.parametrize(
    "second", ["out/one", "./out/one", "out//one/", "out/../out/one", "{tmp_path}/out/one", "link/one"]
)
def test_two_jobs_cannot_have_one_destination(batch: Batch, tmp_path: Path, second: str) -> None:
    (tmp_path / "link").symlink_to("out")
    text = job('destination = "out/one"') + (
        f'[jobs.two]\nsource = "source"\nseed = 1\ndestination = "{second.format(tmp_path=tmp_path)}"\n'
    )
    check_refused(batch(text), tmp_path / "out", "'one' and 'two'", "destination")


def test_a_file_that_cannot_be_read_is_unusable(imgsubset: Program, open_folder: Path, tmp_path: Path) -> None:
    check_refused(imgsubset("batch", tmp_path / "absent.toml"), tmp_path / "out", "No such file", code=3)
    check_refused(imgsubset("batch", tmp_path), tmp_path / "out", "Is a directory", code=3)
    create(open_folder / "jobs.toml", b"[jobs.one]").chmod(0)
    with normal_user(open_folder):
        run = imgsubset("batch", open_folder / "jobs.toml")
    check_refused(run, tmp_path / "out", "Permission denied", code=3)


@pytest.mark.parametrize("text", ["", "[jobs.one", job('destination = "out"\nsteeps = 3'), job("seed = 'x'")])
def test_json_of_a_refusal_is_one_object(batch: Batch, text: str) -> None:
    run = batch(text, "--json")
    record = strict_json(run.out)
    assert (run.code, set(record), record["exit_code"]) == (2, {"error", "exit_code"}, 2)
    assert run.err.startswith("imgsubset: error: ")
    assert run.err.count("\n") == 1


# Names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["\x1b[31mred", "new\nline", "\u202ereversed", "tab\tbed", "", "a.b c", "日本"])
def test_odd_names_of_jobs_are_printed_without_acting_on_the_terminal(
    batch: Batch, folder: Path, tmp_path: Path, name: str
) -> None:
    quoted = '"' + "".join(f"\\U{ord(char):08x}" for char in name) + '"'
    text = job('destination = "out/one"', quoted) + f'[jobs."{"x" * 40}"]\nsource = "absent"\ndestination = "out/two"\n'
    text = text.replace('[jobs."xxx', f'[jobs."bad{quoted[1:-1]}xxx')
    run = batch(text)
    assert run.code == 8
    assert all(char.isprintable() or char == "\n" for char in run.out + run.err)
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
    assert f"[1/2] {shown}\n" in run.err
    assert f"bad{shown}" in run.err.splitlines()[-1]
    assert f"bad{shown}" in run.out
    assert f"{name}" in statuses(batch(text, "--json"))


def test_odd_names_of_files_are_printed_without_acting_on_the_terminal(batch: Batch, folder: Path) -> None:
    Image.fromarray(noise(1, 9, 9)).save(folder / "fine.png")
    create(folder / "\x1b[31m.png")
    run = batch(job('destination = "out"\nstrict = true'))
    assert run.code == 8
    assert "\x1b" not in run.out + run.err
    assert "\\x1b[31m.png" in run.out + run.err
