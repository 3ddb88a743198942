"""`plumbrule paper`: what it prints, what it keeps, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_papers import made_paper, write_cells

from plumbrule.cli import verbs
from plumbrule.cli.verbs import paper as verb
from plumbrule.errors import ArtifactError, ConfigError, TrainingError
from plumbrule.papers.outcomes import check_scale
from plumbrule.papers.paper import Paper
from plumbrule.papers.results_files import as_result, read_results, write_result
from plumbrule.papers.wording import check_lines, page
from plumbrule.store.artifacts import Store

FAST = ["tracking=none", "seed=0", "run.dry=true"]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Paper, Store]:
    """A paper of two claims, one of which fails, with its runs; the verb knows no other."""
    below = {"text": "It loses.", "expression": "ppo/gold_gain[ppo.kl.coef=0.1] < 0"}
    paper = made_paper({}, {**below, "explanation": "It was built to gain."})
    store = Store(tmp_path)
    write_cells(store, paper, {("kl", "0.1"): [0.9, 1.0, 1.1]})
    monkeypatch.setattr(verb, "read_paper", lambda folder, name: paper)
    return paper, store


def test_check_prints_a_line_for_each_claim_and_fails_where_one_does(
    made: tuple[Paper, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError, match=r"1 claim\(s\) of verdict 'fails': made: It loses"):
        verbs.main(["paper", "check", "made", "--store", str(made[1].root)])
    out = capsys.readouterr().out
    assert "3 of 9 runs are done" in out
    assert "holds    PPO gains.  1 [0.7516, 1.248] (n=3)" in out
    assert "fails    It loses." in out


def test_check_keeps_what_came_out_and_the_page_tells_it(
    made: tuple[Paper, Store], tmp_path: Path
) -> None:
    paper, store = made
    folder = tmp_path / "results"
    write_result(folder, check_scale(paper, "laptop", store))
    kept = read_results(folder, ["made"])["made"]["laptop"]
    assert kept["hardware"] == ["2 cores of Made CPU, 4 GiB"]
    assert (kept["date"], kept["code"]) == ("2026-01-02", ["c" * 12])
    text = page([paper], read_results(folder, ["made"]))
    assert "1 holds, 1 fails" in text
    assert "`plumbrule paper run made`, 3 of 9 runs, 2 cores of Made CPU, 4 GiB, 2026-01-02" in text
    assert "| holds | 1 [0.7516, 1.248] (n=3) | table 1 (unverified) |" in text
    assert 'Why "It loses" fails: It was built to gain.' in text
    arms = "kl (`ppo.kl.coef=0.1,1e-5`), rloo (`ppo.advantage=rloo`)"
    assert f"Arms, whose values are chosen here: {arms}." in text
    assert "**full**: none. Its data were never there." in text


def test_a_result_of_another_claim_is_not_told(made: tuple[Paper, Store], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    write_result(folder, check_scale(*made[:1], "laptop", made[1]))
    results = read_results(folder, ["made"])
    changed = made_paper({"expression": "ppo/gold_gain[ppo.kl.coef=0.1] > 0.5"})
    assert "| not run | the claim is newer than the results |" in page([changed], results)
    looser = made_paper({"tolerance": 0.5})
    assert "its tolerance has changed" in page([looser], results)


def test_the_other_scale_of_a_file_stays(made: tuple[Paper, Store], tmp_path: Path) -> None:
    path = tmp_path / "results" / "made.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"full": {"claims": []}}))
    write_result(path.parent, check_scale(*made[:1], "laptop", made[1]))
    assert set(json.loads(path.read_text())) == {"full", "laptop"}
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"made\.json must be JSON"):
        write_result(path.parent, check_scale(*made[:1], "laptop", made[1]))


def test_a_scale_that_there_is_not_is_said_and_nothing_is_run(
    made: tuple[Paper, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    checked = check_scale(made[0], "full", made[1])
    assert check_lines(made[0], checked.scale, as_result(checked))[-1].startswith(
        "not run: Its data"
    )
    verbs.main(["paper", "run", "made", "scale=full"])
    assert "no scale full: Its data were never there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check"], "paper must be named; there are"),
        (
            ["check", "gao2023"],
            r"paper \(=gao2023\) must be one of conf/paper; did you mean gao2022",
        ),
        (["chek", "gao2022"], "the nearest is check"),
        (["check", "gao2022", "scale=ful"], "the nearest is full"),
        (["check", "gao2022", "seed=1"], "must be given papers and a scale alone"),
        (["run", "gao2022", "ppo.kl.coef=1"], r"ppo\.kl\.coef=1 must not be added"),
        (
            ["run", "huang2024", "arm=eso"],
            r"arm of huang2024 \(=eso\) must be one of eos, value; the nearest is eos",
        ),
        (
            ["run", "lewis2020", "seed=0,7"],
            r"seed \(=7\) must be one of 0, 1, 2, over which claims",
        ),
        (["run", "lewis2020", "--json"], r"--json must stand behind paper check \(=paper run\)"),
        (["list", "lewis2020"], r"paper list \(=lewis2020\) must be given nothing"),
        (
            ["run", "li2023", "scale=full"],
            r"must be given eval\.halueval\.path \(HaluEval's folder",
        ),
    ],
)
def test_wrong_words_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        verbs.main(["paper", *words])


def test_a_dry_run_prints_one_plan_in_which_shared_stages_stand_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs.main(["paper", "run", "balaguer2024", "ovadia2023", *FAST, "--store", str(tmp_path)])
    out = capsys.readouterr().out
    assert "plan of the sweep: 3 cells of 39 nodes, 17 of them different" in out
    assert "cell balaguer2024 main seed=0" in out
    assert not (tmp_path / "runs").exists()


def test_one_arm_of_a_paper_is_planned_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["stiennon2020", "arm=data", *FAST, "--store", str(tmp_path)]
    verbs.main(["paper", "run", *words])
    cells = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cell ")]
    sizes = [cell.split("num_rankings=")[1].split()[0] for cell in cells]
    assert sizes == ["100", "200", "400", "800"]


@pytest.mark.slow
def test_a_paper_is_run_through_the_sweep_and_then_checked(tmp_path: Path) -> None:
    """The whole way in a process of its own, on one seed: nothing holds, and it is said why."""
    words = ["paper", "run", "dhamala2021", "seed=0", "tracking=none", "--store", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "plumbrule", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    words = ["paper", "check", "dhamala2021", "--json", "--store", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "plumbrule", *words], capture_output=True, text=True
    )
    claims = json.loads(done.stdout)["dhamala2021"]["laptop"]["claims"]
    assert {claim["verdict"] for claim in claims} <= {"near", "fails"}
    assert all(claim["seeds"] == [0] for claim in claims)
