"""Pages of reports in a real browser: nothing missing, nothing in the console, no sideways scrolling on a phone; and of all tasks."""

import functools
import html
import json
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import TWO_TOWER
from study_folders import STUDY, finish_all, runs_by, write_study
from task_runs import TASKS, run_argv
from test_reports import HOSTILE, Page, change_record, page_of

from renaissance.commands.report import main as report
from renaissance.commands.study import main as study_command
from renaissance.studies.notes import FAILED, Note
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.runner import run_task


pytestmark = pytest.mark.slow

#: CSS pixels of the widths that are tried: a small phone, a tablet, a desktop.
WIDTHS = (360, 768, 1400)
#: A page that shows another in frames of these widths, and writes what it finds there as JSON into its title.
FRAMES = """<!doctype html><title>waiting</title>{frames}<script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, root = page.documentElement;
    const images = [...page.images];
    return {{
      width: root.clientWidth, needed: root.scrollWidth, style: getComputedStyle(page.body).margin,
      missing: images.filter((image) => !image.complete || image.naturalWidth === 0).length, images: images.length,
      flat: [...page.querySelectorAll("svg")].filter((picture) => picture.getBoundingClientRect().height < 50).length,
      pictures: page.querySelectorAll("svg").length, scripts: page.scripts.length,
      dead: [...page.querySelectorAll("a[href^='#']")].filter((a) => !page.getElementById(a.hash.slice(1))).length,
      files: [...page.querySelectorAll("a[href^='./']")].map((a) => a.href),
    }};
  }});
  document.title = JSON.stringify(found);
}});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """The command of Chromium; skips the test if there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium to open pages in (Debian: apt-get install chromium)")
    return found


class Server(SimpleHTTPRequestHandler):
    """Serves a folder, and keeps the paths that it was asked for."""

    asked: list[str]

    def log_message(self, *args) -> None:
        self.asked.append(self.path)


def look_at(browser: str, page: Path, tmp_path: Path) -> tuple[list[dict], list[str], list[str]]:
    """Return what a browser finds in a page at each of `WIDTHS`, the lines of its console, and the files that it asked for."""
    frames = "".join(f"<iframe src='{page.name}' style='width:{w}px;height:900px;border:0'></iframe>" for w in WIDTHS)
    (page.parent / "frames.html").write_text(FRAMES.format(frames=frames), encoding="utf-8")
    kind = type("Kept", (Server,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(page.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/frames.html"
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--virtual-time-budget=20000",
    ]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=2700,1000", "--dump-dom"]
    try:
        done = subprocess.run([browser, *options, address], capture_output=True, text=True, timeout=300, check=True)
    finally:
        server.shutdown()
        server.server_close()
    title = html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1])
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(title), console, kind.asked


def check_in(browser: str, page: Path, tmp_path: Path) -> dict:
    """Check a page at all widths; return what the browser found at the smallest."""
    found, console, asked = look_at(browser, page, tmp_path)
    assert console == []
    # The page asks for nothing else, not even for an icon; that of the frames may be asked for.
    assert {path for path in " ".join(asked).split() if path != "/favicon.ico"} == {"/frames.html", f"/{page.name}"}
    assert [each["width"] for each in found] == list(WIDTHS)
    for each in found:
        assert each["needed"] <= each["width"], each
        assert each["missing"] == each["flat"] == each["scripts"] == each["dead"] == 0 and each["style"] == "0px", each
        for link in each["files"]:
            assert (page.parent / unquote(link.split("/", 3)[3])).exists(), link
    return found[0]


@pytest.fixture(scope="module")
def runs(scenes, shapes, tokenizer_folder, tmp_path_factory) -> Path:
    """A folder with a finished run of each task, and of pretraining."""
    root = tmp_path_factory.mktemp("runs")
    for name in TASKS:
        argv = [*run_argv(name, scenes, tokenizer_folder, root / name), "--do_train", "--max_steps", "4"]
        argv += ["--per_device_train_batch_size", "8", "--logging_steps", "1", "--eval_strategy", "steps"]
        run_task(TASKS[name].task, "", [*argv, "--eval_steps", "2", "--save_strategy", "no"])
    argv = [
        *TWO_TOWER,
        "--tokenizer",
        str(tokenizer_folder),
        "--train_datasets",
        str(shapes / "captions"),
        "--use_cpu",
    ]
    argv += ["--do_train", "--do_eval", "--max_steps", "4", "--logging_steps", "1", "--report_to", "none"]
    run_task(Pretraining, "", [*argv, "--output_dir", str(root / "pretraining"), "--disable_tqdm", "true"])
    return root


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_examples(name, runs):
    page = page_of(runs / name)
    splits = len(TASKS[name].files)
    assert "No examples" not in page.content and "cannot be read" not in page.content
    rows = {"retrieval": page.content.count("rows are right")}.get(name) or page.content.count("of 13 rows are right")
    assert rows == splits
    assert (page.images > 0) == (name != "glue")
    assert ("Confusion matrix" in page.content) == (name not in ("vqav2", "refcoco", "retrieval"))
    right = sum(map(int, re.findall(r"Split \w+: (\d+) of", page.content)))
    known = {each.name: each for each in RunRecord.read(runs / name).metrics}
    if name not in ("vqav2", "retrieval"):
        scores = [each for key, each in known.items() if re.fullmatch(r"test(_test[AB])?_accuracy", key)]
        assert right == round(sum(each.value * each.rows for each in scores)) and len(scores) == splits


@pytest.mark.parametrize("name", ["nlvr2", "refcoco", "pretraining"])
def test_the_page_of_a_run_is_whole_in_a_browser(name, runs, browser, tmp_path):
    page_of(runs / name)
    found = check_in(browser, runs / name / "report.html", tmp_path)
    assert found["pictures"] >= 4 and (found["images"] > 4) == (name != "pretraining")


def test_the_page_of_several_runs_is_whole_in_a_browser(runs, browser, tmp_path):
    folder = tmp_path / "all"
    shutil.copytree(runs, folder)
    shutil.copytree(
        folder / "nlvr2", folder / "nlvr2 again, with a name that is as long as names of runs can be_and_longer"
    )
    # Strings without a space, and hostile ones.
    long = "long" * 60
    record = RunRecord.read(folder / "glue")
    record.metrics[0].metric = record.metrics[0].split = HOSTILE
    change_record(folder / "glue", options={HOSTILE: HOSTILE, long: long}, task=HOSTILE, metrics=record.metrics)
    change_record(folder / "cifar10", started_from=long, status="running", hardware=long, script=long)
    assert isinstance(page_of(folder, "--examples", "2"), Page)
    found = check_in(browser, folder / "report.html", tmp_path)
    assert found["pictures"] > 30 and found["images"] > 10


def test_the_page_of_a_study_is_whole_in_a_browser(browser, tmp_path):
    """Half done, with names that are markup and long ones, and seen in the dark as well as it is."""
    long = "a variant whose name is as long as names can be_and_longer_than_that, without end"
    study = write_study(
        tmp_path,
        STUDY.replace("nothing: {}", f"nothing: {{}}\n    {long}: {{pretraining: {{learning_rate: 1.0e-2}}}}"),
    )
    values = {("nothing", 1): 0.6, ("nothing", 2): 0.8, ("<b>text & |", 1): 0.7, (long, 1): 0.9}
    finish_all(study, values, "loss", "learning_rate", "eval_accuracy")
    Note(FAILED, error="long" * 60).write(runs_by(study)["pretraining", "<b>text & |", 2])
    report([str(study.path), "--output", str(study.output_dir / "report.html")])
    page = Page((study.output_dir / "report.html").read_text(encoding="utf-8")).check()
    found = check_in(browser, study.output_dir / "report.html", tmp_path)
    assert found["pictures"] == page.source.count("<svg ") >= 10


def test_the_page_of_a_real_study_is_whole_in_a_browser(browser, runs, shapes, tmp_path):
    """With predictions: variants are compared row by row, and examples shown."""
    text = f"""
output_dir: {tmp_path}/out
seeds: [1, 2]
stages:
  nlvr2:
    command: nlvr2
    options:
      dataset: {shapes / "nlvr2"}
      model_name_or_path: {runs / "pretraining"}
      do_train: true
      do_eval: true
      do_predict: true
      use_cpu: true
      max_steps: 4
      logging_steps: 1
      eval_strategy: steps
      eval_steps: 2
      report_to: none
axes:
  nlvr2.learning_rate: [1.0e-4, 1.0e-2]
"""
    (tmp_path / "rates.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        study_command(["run", str(tmp_path / "rates.yaml"), "--jobs", "2"])
    assert end.value.code == 0
    report([str(tmp_path / "out"), "--examples", "2"])
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8")).check()
    assert "2 variants, 1 stage, 2 seeds; 4 of 4 runs are done." in page.content and "Not done" not in page.content
    assert (
        "Compared row by row" in page.content
        and "p (McNemar)" in page.content
        and "cannot be read" not in page.content
    )
    assert "1.0e-4, seed 1" in page.content and "Confusion matrix" in page.content and page.images == 16
    found = check_in(browser, tmp_path / "out" / "report.html", tmp_path)
    assert found["pictures"] > 5
