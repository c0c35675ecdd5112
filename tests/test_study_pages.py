"""`renaissance report` of a study: variants over seeds, what each cost, and what is missing."""

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from study_folders import STUDY, finish, finish_all, runs_by, write_study
from test_reports import Page

from renaissance.commands.report import main as report
from renaissance.commands.study import main as study_command
from renaissance.reports.study_runs import StudyRuns
from renaissance.reports.study_stage import over_seeds
from renaissance.studies.notes import DONE, FAILED, STOPPED, Note
from renaissance.studies.plan import runs_of
from renaissance.studies.spec import COPY, Study
from renaissance.studies.standing import standings_of


ODD = "<b>text & |"
ALL = {("nothing", 1): 0.6, ("nothing", 2): 0.8, (ODD, 1): 0.7, (ODD, 2): 0.74}


def page_of(place: str, output: Path, *options: str) -> Page:
    report([place, "--output", str(output), *options])
    return Page(output.read_text(encoding="utf-8")).check()


def test_the_pictures_of_a_page_are_files(tmp_path, refused):
    """As many as the page has, each an SVG by itself, with the colours that it has without a page."""
    study = write_study(tmp_path)
    finish_all(study, ALL)
    page = page_of(str(study.path), tmp_path / "out" / "report.html", "--pictures", str(tmp_path / "figures"))
    files = sorted((tmp_path / "figures").iterdir())
    assert len(files) == page.source.count("<figure>") > 3
    for file in files:
        svg = file.read_text(encoding="utf-8")
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in svg and svg.strip() in re.sub(r"var\(--[\w-]+, (#\w+)\)", r"\1", page.source)
    assert "nlvr2-accuracy-validation.svg" in {file.name for file in files}
    (tmp_path / "file").write_text("")
    argv = [str(study.path), "--output", str(tmp_path / "page.html"), "--pictures", str(tmp_path / "file")]
    assert "file is a file, expected a folder" in refused(report, argv) and not (tmp_path / "page.html").exists()


def test_pictures_show_once_what_variants_share(tmp_path):
    """A curve and a bar of a pretraining that three variants start from, and each one's own of their finetunings."""
    rates = [f"    rate {rate}: {{nlvr2: {{learning_rate: {rate}}}}}" for rate in (1, 2)]
    study = write_study(tmp_path, "\n".join([STUDY.rstrip(), *rates]))
    finish_all(study, ALL | {(f"rate {rate}", seed): 0.5 for rate in (1, 2) for seed in (1, 2)})
    page = page_of(str(study.path), tmp_path / "report.html", "--pictures", str(tmp_path / "figures"))
    shown = {file.stem: file.read_text(encoding="utf-8") for file in (tmp_path / "figures").iterdir()}
    for picture in ("pretraining-accuracy-validation", "pretraining-accuracy-evaluation-by-step"):
        assert "nothing; rate 1; 1 more" in shown[picture] and "rate 2" not in shown[picture], picture
        assert "text" in shown[picture]
    for picture in ("nlvr2-accuracy-validation", "nlvr2-accuracy-evaluation-by-step"):
        assert all(f">{name}<" in shown[picture] for name in ("nothing", "rate 1", "rate 2")), picture
    # The tables have a row for each variant all the same.
    assert page.content.count("rate 2") > 2
    alike = write_study(
        tmp_path / "alike", STUDY.replace("pretraining: {freeze: [text]}", "nlvr2: {learning_rate: 1}")
    )
    finish_all(alike, ALL)
    assert StudyRuns.read(alike).titles("pretraining") == {"nothing": "all variants"}


def test_the_page_of_a_study_that_is_half_done(tmp_path):
    """A finetuning of one variant has failed, another is not done because its pretraining was stopped."""
    study = write_study(tmp_path)
    finish_all(study, ALL)
    runs = runs_by(study)
    for key in (("nlvr2", ODD, 1), ("nlvr2", ODD, 2), ("pretraining", ODD, 2)):
        shutil.rmtree(runs[key].folder)
    log = runs["nlvr2", ODD, 1].folder.with_suffix(".log")
    Note(FAILED, exit_code=1, error=f"no memory <i>left</i> (exit code 1; {log})").write(runs["nlvr2", ODD, 1])
    Note(STOPPED).write(runs["pretraining", ODD, 2])
    # It is as if that run had begun when the file was another one.
    unknown = runs["nlvr2", ODD, 2].folder.with_name(f"{runs['nlvr2', ODD, 2].folder.name}.json")
    unknown.rename(unknown.with_name("older-seed2-0123456789.json"))
    page = page_of(str(study.path), tmp_path / "out" / "report.html")
    for text in (
        "2 variants, 3 stages, 2 seeds; 6 of 9 runs are done.",
        "Not done: 1 failed, 1 stopped, 1 waiting.",
        "no memory <i>left</i> (exit code 1; nlvr2/",
        "it starts from pretraining _b_text_-seed2 (stopped)",
        "Not shown: 1 run in the folder that the file does not ask for now",
    ):
        assert text in page.content, text
    assert str(tmp_path) not in page.source and "dataset: ./pairs, model_name_or_path: {pretraining}" in page.content
    assert page.names == ["results", "stage-1", "stage-2", "runs", "provenance", "configuration"]
    # Mean and interval over two seeds of 0.6 and 0.8: 12.706 (Student's t of one degree) times 0.1, cut at 0 and 1.
    assert "0.7 [0, 1]" in page.content
    # One seed of the other variant is left, in pretraining alone.
    assert "0.7 [0.635, 0.76]" in page.content
    counts = re.findall(r"\b\d of \d\b", page.content)
    # The lead; of both stages, of pretraining and of finetuning, for each variant.
    assert counts == ["6 of 9", "4 of 4", "1 of 4", "2 of 2", "1 of 2", "2 of 2", "0 of 2"]
    for link in [link for link in page.links if link.startswith("./")]:
        assert (tmp_path / "out" / link).exists(), link
    assert {f"./nlvr2/{runs['nlvr2', 'nothing', seed].folder.name}" for seed in (1, 2)} < set(page.links)
    # Of each stage bars, and accuracy by step and by compute.
    assert page.source.count("<svg ") == 2 * (1 + 2)
    assert "accuracy (evaluation) by compute; mean over seeds" in page.content
    assert (
        f"nlvr2/{runs['nlvr2', 'nothing', 1].folder.name}" in page.content and "options: nothing" not in page.content
    )


def test_the_page_links_to_pages_of_runs_and_is_found_in_a_folder_that_has_moved(tmp_path, capsys):
    study = write_study(tmp_path / "here", STUDY.split("axes:")[0].replace("[1, 2]", "[3]"))
    for run in runs_of(study):
        finish(run, 0.5, ())
    study.keep_copy()
    moved = Path(shutil.move(tmp_path / "here" / "out", tmp_path / "there"))
    (tmp_path / "here" / "freezing.yaml").unlink()
    last = runs_of(Study.read(str(moved)))[-1]
    assert last.folder.is_relative_to(moved)
    (last.folder / "report.html").write_text("a page")
    page = page_of(str(moved), moved / "report.html", "--metrics", "nlvr2.eval_loss")
    assert f"./nlvr2/{last.folder.name}/report.html" in page.links and "there" in page.content.split()[:4]
    assert "1 variant, 3 stages, 1 seed; 3 of 3 runs are done." in page.content and "finished" in page.content
    assert "eval" in page.content and "lowest mean: all" in page.content
    with pytest.raises(SystemExit) as end:
        study_command(["table", str(moved)])
    assert (
        end.value.code == 0
        and "| variant | pretraining validation accuracy | nlvr2 validation" in capsys.readouterr().out
    )


def test_a_study_keeps_a_copy_of_its_newest_file(tmp_path):
    study = write_study(tmp_path)
    study.keep_copy()
    assert (study.output_dir / COPY).read_text() == study.path.read_text()
    changed = write_study(tmp_path, STUDY.replace("[1, 2]", "[1, 2, 3]"))
    changed.keep_copy()
    assert Study.read(str(study.output_dir)).seeds == (1, 2, 3)
    again = Study.read(str(study.output_dir))
    again.keep_copy()
    assert Study.read(str(study.output_dir)) == again


def test_a_variant_costs_what_its_whole_chain_costs(tmp_path):
    """Pretraining and finetuning; a chain of which a part is unknown has no cost."""
    study = write_study(tmp_path)
    finish_all(study, ALL)
    found = StudyRuns.read(study)
    assert found.stages == ["pretraining", "nlvr2"] and found.variants == ["nothing", ODD]
    assert found.cost("pretraining", "nothing", lambda run: run.flops) == pytest.approx(3e12)
    assert found.cost("nlvr2", ODD, lambda run: run.flops) == pytest.approx(4e12)
    (runs_by(study)["pretraining", ODD, 2].folder / "trainer_state.json").unlink()
    found = StudyRuns.read(study)
    assert found.cost("nlvr2", ODD, lambda run: run.flops) is None
    assert found.cost("nlvr2", "nothing", lambda run: run.flops) == pytest.approx(4e12)


def test_curves_over_seeds_have_the_places_that_all_have():
    one, other = [(1, 1.0), (2, 3.0), (3, 9.0)], [(1, 2.0), (2, 5.0), (4, 9.0)]
    assert over_seeds([one, other]) == ([(1, 1.5), (2, 4.0)], [(1, 1.0, 2.0), (2, 3.0, 5.0)])
    assert over_seeds([one]) == (one, [])
    assert over_seeds([]) == ([], [])
    assert over_seeds([[(1, float("nan")), (2, 1.0)], [(1, 1.0), (2, 1.0)]])[0] == [(2, 1.0)]


def test_how_runs_stand(tmp_path):
    study = write_study(tmp_path)
    runs = runs_by(study)
    finish_all(study, {("nothing", 1): 0.6})
    gone, broken, other = runs["data", "nothing", 1], runs["pretraining", "nothing", 2], runs["pretraining", ODD, 1]
    shutil.rmtree(gone.folder)
    Note(DONE).write(broken)
    broken.folder.mkdir(parents=True)
    other.folder.parent.mkdir(exist_ok=True)
    other.folder.with_name(f"{other.folder.name}.json").write_text("{")
    told = {each.run.key: (each.status, each.reason) for each in standings_of(study)}
    assert told[runs["nlvr2", "nothing", 1].key] == ("done", "")
    assert told[gone.key][0] == "not begun" and "is gone; the same command runs it again" in told[gone.key][1]
    assert told[broken.key][0] == "broken" and "the record of the run (run.json) is gone" in told[broken.key][1]
    assert told[other.key][0] == "broken" and "not what a study noted of a run" in told[other.key][1]
    assert told[runs["nlvr2", ODD, 1].key] == ("waiting", "it starts from pretraining _b_text_-seed1 (broken)")


@pytest.mark.parametrize(
    ("state", "more", "message"),
    [
        ({}, [], "no run with results is done yet; `renaissance study run"),
        ({"failed": True}, [], "no run with results is done yet (1 failed, the first: pretraining nothing-seed1: no disk); `"),
        ({"done": True}, ["--metrics", "eval_f1"], "metrics: no run has eval_f1; expected any of eval_accuracy, eval_loss"),
        ({"done": True}, ["--examples", "-1"], "expected from 0 to 100, got -1"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(tmp_path, refused, state, more, message):
    study = write_study(tmp_path)
    if state.get("done"):
        finish_all(study, ALL)
    if state.get("failed"):
        run = runs_by(study)["pretraining", "nothing", 1]
        run.folder.parent.mkdir(parents=True)
        Note(FAILED, error="no disk").write(run)
    assert message in refused(report, [str(study.path), *more])
    assert not list(tmp_path.rglob("*.html"))


def test_a_folder_of_neither_runs_nor_a_study_is_refused(tmp_path, refused):
    assert "no run in or below it (no run.json), and no study (no study.yaml)" in refused(report, [str(tmp_path)])
    (tmp_path / COPY).write_text("stages: [")
    assert f"study {tmp_path / COPY}: " in refused(report, [str(tmp_path)])
