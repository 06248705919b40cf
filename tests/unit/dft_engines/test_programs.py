"""What every program may do to its job, in pw.x's place: be missing, hang, fill the disk, die, print nonsense."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ase import Atoms

from rlpath_core.config import check
from rlpath_core.dft.engines import ENGINES, Calculation, program_worker
from rlpath_core.dft.engines.base import REQUEST, RESULT
from rlpath_core.dft.engines.espresso import EspressoEngine
from rlpath_core.dft.engines.gpaw import GpawEngine
from rlpath_core.dft.engines.program import PRESETS, ProgramEngine, load_preset
from rlpath_core.dft.launchers import LocalLauncher, Submission
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.resolve import resolve_dft
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure

KEY = "0" * 64


@pytest.fixture
def structure() -> Structure:
    return Structure.from_ase(Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], cell=[4, 4, 4], pbc=True))


@pytest.fixture
def pseudos(tmp_path: Path) -> Path:
    folder = tmp_path / "pseudo"
    folder.mkdir()
    (folder / "H.UPF").write_text("hydrogen")
    return folder


def shell(script: str, pseudos: Path, **settings: object) -> EspressoEngine:
    """pw.x's engine with a shell script as the program."""
    return EspressoEngine(
        {"command": ["sh", "-c", script], "pseudo_dir": str(pseudos), "pseudopotentials": {"H": "H.UPF"}} | settings
    )


def calculated(folder: Path, engine: ProgramEngine, structure: Structure) -> Calculation:
    engine.write_inputs(folder, KEY, structure)
    assert program_worker.main([str(folder)]) == 0
    return engine.parse(folder, KEY)


@pytest.mark.parametrize(
    ("script", "reason", "failure"),
    [
        ("exit 0", "pw.x ended with exit code 0 and no XML", None),
        ("echo JOB DONE.; exit 0", "no XML: JOB DONE.", None),
        ("mkdir out; head -c 9999 /dev/urandom > out/pwscf.xml", "XML is cut off", None),
        ("mkdir out; echo '<a/>' > out/pwscf.xml", "has no output/convergence_info", None),
        ("echo 'Error in routine readpp (1):'; echo wrong; echo '%%%%%%%%%%%%%%'; exit 1", "readpp (1): wrong", None),
        ("echo 'convergence NOT achieved after 7 iterations: stopping'; echo JOB DONE.", "after 7 iterations", "scf"),
        ("echo 'write failed: No space left on device'; exit 1", "the disk is full", "disk"),
        ("kill -9 $$", "killed, for want of memory", "memory"),
        ("echo slurmstepd: error: 1 oom_kill event in StepId=7.0; exit 1", "killed, for want of memory", "memory"),
        ("kill -11 $$", "died of SIGSEGV", None),
    ],
)
def test_why_it_is_no_label(
    tmp_path: Path, structure: Structure, pseudos: Path, script: str, reason: str, failure: str | None
) -> None:
    done = calculated(tmp_path / "job", shell(script, pseudos), structure)
    assert not done.converged
    assert reason in (done.reason or "")
    assert done.failure == failure


def test_a_program_that_only_the_nodes_should_have(tmp_path: Path, structure: Structure, pseudos: Path) -> None:
    engine = shell("", pseudos, command="no_such_pw.x -nk 2", check_installed=False)
    engine.require()
    done = calculated(tmp_path / "job", engine, structure)
    assert "engine espresso is not installed: no program 'no_such_pw.x'" in (done.reason or "")
    with pytest.raises(InputError, match="apt-get install quantum-espresso"):
        shell("", pseudos, command="no_such_pw.x").require()


def test_an_earlier_run_s_answer_is_not_this_one_s(tmp_path: Path, structure: Structure, pseudos: Path) -> None:
    (tmp_path / "job" / "out").mkdir(parents=True)
    (tmp_path / "job" / "out" / "pwscf.xml").write_text("<a/>")
    done = calculated(tmp_path / "job", shell("exit 3", pseudos), structure)
    assert "exit code 3 and no XML" in (done.reason or "")


def test_what_is_done_is_not_done_again(tmp_path: Path, structure: Structure, pseudos: Path) -> None:
    engine = shell("echo ran >> runs", pseudos)
    first = calculated(tmp_path / "job", engine, structure)
    assert calculated(tmp_path / "job", engine, structure).reason == first.reason
    assert (tmp_path / "job" / "runs").read_text() == "ran\n"
    assert not (tmp_path / "job" / program_worker.RESERVE).exists()


def test_a_full_disk_still_leaves_an_answer(tmp_path: Path, structure: Structure, pseudos: Path) -> None:
    """A file system of 2 MB that the program fills to the last byte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        done = calculated(disk / "job", shell("cat /dev/zero > big", pseudos), structure)
        assert "the disk is full" in (done.reason or "")
        assert done.failure == "disk"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def processes_in(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize("how", ["launcher", "by itself", "terminated"])
@pytest.mark.slow
def test_a_program_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, structure: Structure, pseudos: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the launcher; by the job's own process where the launcher is dead; by a scheduler's SIGTERM."""
    folder = tmp_path / "job"
    engine = shell("trap '' TERM; sleep 300 & sleep 300", pseudos)
    engine.write_inputs(folder, KEY, structure)
    if how == "launcher":
        with LocalLauncher(workers=1, wall_seconds=4) as launcher:
            launcher.submit([Submission("job", folder, tuple(engine.command(folder)))])
            events = []
            while not any(event.kind == "ended" for event in events):
                events += launcher.wait(5.0)
        assert "wall-time limit of 4 s" in (events[-1].reason or "")
    else:
        code = f"from rlpath_core.dft.engines import program_worker as r; r.GRACE = 0; r.main([{str(folder)!r}])"
        wall = {"RLPATH_WALL_SECONDS": "0.5"} if how == "by itself" else {}
        process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | wall, stderr=subprocess.DEVNULL)
        if how == "terminated":
            while len(processes_in(folder)) < 2:
                time.sleep(0.05)
            process.terminate()
        assert process.wait(60) == {"by itself": 124, "terminated": 143}[how]
    deadline = time.monotonic() + 60
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_in(folder)
    assert not (folder / RESULT).exists()


def test_the_lock_is_inherited_or_waited_for(tmp_path: Path) -> None:
    path = tmp_path / program_worker.LOCK
    with open(path, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with program_worker.held(tmp_path) as held:
            assert held == (stream.fileno(),)
    with program_worker.held(tmp_path) as held, open(path) as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_error_in_the_body_comes_out_of_the_lock(tmp_path: Path) -> None:
    with open(tmp_path / program_worker.LOCK, "a"), pytest.raises(OSError, match="mine"), program_worker.held(tmp_path):
        raise OSError("mine")


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_name_their_source_and_pass_their_engine(path: Path) -> None:
    engine = ENGINES[path.parent.name]
    preset = load_preset(path.parent.name, path.stem)
    assert "http" in preset.source or "doi:" in preset.source
    made = engine({"preset": path.stem})
    assert engine(made.resolved()).resolved() == made.resolved()
    safer = made.safer()
    assert safer is not None
    assert engine(safer).resolved() == safer
    json.dumps(made.identity(), allow_nan=False)


def test_a_preset_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("source: me\nsettings: {ecut: 123.0, convergence: {energy: 0.001}}\n")
    made = GpawEngine({"preset": str(tmp_path / "mine.yaml"), "convergence": {"density": 1e-3}})
    assert made.settings.ecut == 123.0
    assert made.settings.convergence == {"energy": 0.001, "density": 0.001}
    with pytest.raises(InputError, match="Did you mean 'pbe'"):
        GpawEngine({"preset": "pbee"})


def test_where_it_runs_is_no_part_of_the_identity(tmp_path: Path, pseudos: Path) -> None:
    here = shell("", pseudos)
    elsewhere = tmp_path / "elsewhere"
    pseudos.rename(elsewhere)
    there = shell("", elsewhere, command="mpirun -n 4 pw.x", check_installed=False)
    assert there.identity()["pseudopotentials"]["H"] != "H.UPF"
    assert "command" not in there.identity()
    before = there.identity()
    (elsewhere / "H.UPF").write_text("another hydrogen")
    assert shell("", elsewhere).identity()["pseudopotentials"] != before["pseudopotentials"]
    assert here.settings.pseudo_dir != elsewhere


def test_elements_without_a_pseudopotential_are_refused(pseudos: Path) -> None:
    water = Structure.from_ase(Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 1, 0]], cell=[4, 4, 4], pbc=True))
    assert "no pseudopotential for O" in (shell("", pseudos).refuse(water) or "")
    assert shell("", pseudos).refuse(Structure([1], [[0, 0, 0]])) is None
    with pytest.raises(InputError, match=r"X\.UPF: pseudopotentials: no such"):
        shell("", pseudos, pseudopotentials={"H": "X.UPF"}).require()
    with pytest.raises(InputError, match="no such folder of pseudopotentials"):
        shell("", Path("/no/pseudos")).require()


def test_a_job_names_its_engine(tmp_path: Path, structure: Structure, pseudos: Path) -> None:
    shell("", pseudos).write_inputs(tmp_path, KEY, structure)
    assert json.loads((tmp_path / REQUEST).read_text())["engine"] == "espresso"


def test_the_examples_of_the_documentation_are_configs() -> None:
    text = (Path(__file__).parents[3] / "docs" / "engines.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    page = "docs/engines.md"
    configs = [resolve_dft(check(DftConfig, yaml.safe_load(block), page), page) for block in blocks]
    assert [config.engine for config in configs] == ["gpaw", "espresso", "vasp"]
    assert configs[2].settings["hubbard"]["Fe"]["u"] == 5.3
    assert configs[2].settings["incar"]["LREAL"] is None
    for name in ENGINES:
        assert f"`{name}`" in text
