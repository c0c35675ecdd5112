"""A preparation that is killed, stopped, or whose disk fails at any file operation ends, with the same command, as if it had not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from preparing import make_coco

from faults.shim import Fault, build, operations


#: A process that has imported everything, and forks a child for each preparation: a request is a line of JSON on its standard
#: input, the answer the exit code of the child, negative if a signal killed it.
SERVER = """
import json, os, signal, sys, traceback
# Tests in the background are started with this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from faults.shim import Fault
from renaissance.commands import prepare
from renaissance.tasks.data import shards
shards.SHARD_BYTES = 1
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        answers.close()
        output = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        code = 0
        os.environ.update(request["environment"])
        Fault.arm_from_environment()
        try:
            exec(request["before"], {"prepare": prepare, "shards": shards, "os": os})
            prepare.main(request["argv"])
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        os._exit(code or 0)
    print(child, file=answers, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""


class Preparing:
    """The process, as tests see it, and the sources and options of preparations by name."""

    def __init__(self, folder: Path, library: Path):
        self.folder, self.output = folder, folder / "out"
        environment = Fault(folder / "none").preload(library) | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", SERVER, str(Path(__file__).parents[1])]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        make_coco(folder / "coco", num_train=120)
        (folder / "coco" / "val2014" / "COCO_val2014_000000000003.jpg").write_bytes(b"")
        for number in range(40, 60):
            Image.new("RGB", (50, 40), (number, 9, 9)).save(
                folder / "coco/val2014" / f"COCO_val2014_{number:012d}.jpg"
            )
        few = ["--num_train", "3", "--num_validation", "2", "--num_test", "2", "--only", "captions", "glue"]
        self.commands = {"coco": ["coco", "--source", str(folder / "coco")], "shapes": ["shapes", *few]}

    def start(self, name: str, fault: Fault | None = None, before: str = "", *more: str) -> int:
        """Start a preparation; return the number of its process. `before` is code that it executes first."""
        argv = [*self.commands[name], "--output", str(self.output), *more]
        environment = (fault or Fault(self.folder / "none")).environment()
        request = {"argv": argv, "environment": environment, "before": before, "said": str(self.folder / "said")}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> int:
        """Wait for the preparation that was started; return its exit code."""
        return int(self.process.stdout.readline())

    def run(self, *arguments) -> int:
        self.start(*arguments)
        return self.end()

    def said(self) -> list[str]:
        """The lines that it wrote, but for progress bars."""
        text = (self.folder / "said").read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip() and "it/s" not in line and "row/s" not in line]

    def begin_anew(self) -> None:
        subprocess.run(["rm", "-rf", self.output], check=True)


@pytest.fixture(scope="module")
def preparing(tmp_path_factory) -> Iterator[Preparing]:
    try:
        library = build(tmp_path_factory.mktemp("shim"))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    made = Preparing(tmp_path_factory.mktemp("preparing"), library)
    yield made
    made.process.stdin.close()
    made.process.wait()


def contents(folder: Path) -> dict[str, bytes | None]:
    """All files and folders in a folder, hidden ones too, by their paths."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


@pytest.fixture(scope="module")
def whole(preparing) -> dict[str, tuple[dict, list]]:
    """The files of each unbroken preparation, and its file operations."""
    found = {}
    for name in preparing.commands:
        preparing.begin_anew()
        log = preparing.folder / f"{name}.log"
        assert preparing.run(name, Fault(preparing.output, log=log)) == 0, preparing.said()
        found[name] = contents(preparing.output), operations(log)
    assert not [each for files, _ in found.values() for each in files if Path(each).name.startswith(".")]
    return found


def faults_of(preparing: Preparing, whole: dict, name: str, number: int, kind: str) -> list[str]:
    """Break a preparation at an operation, let it go on, and return in words what is not as it should be."""
    files, done = whole[name]
    preparing.begin_anew()
    code, found = preparing.run(name, Fault(preparing.output, number, kind)), []
    if kind == "KILL":
        found += [] if code == -signal.SIGKILL else [f"exit code {code}"]
    elif code != 0:
        said = preparing.said()
        found += [] if code in (1, 2) and len(said) == 1 and "error: " in said[0] else [f"exit code {code}: {said}"]
    if (code := preparing.run(name)) != 0:
        found.append(f"going on: {code}, {preparing.said()}")
    elif (again := contents(preparing.output)) != files:
        found.append(
            f"differs in {sorted(each for each in files.keys() | again.keys() if files.get(each) != again.get(each))}"
        )
    return [f"{kind} at operation {number} of {name}, {' '.join(done[number - 1])}: {each}" for each in found]


def test_every_kind_of_operation_is_seen(whole):
    for name, (files, done) in whole.items():
        assert {"open", "write", "fsync", "rename", "mkdir", "unlink", "rmdir"} <= {each for each, _ in done}, name
        assert sum(name.endswith(".parquet") for name in files) >= 4


#: What is tried in every run of the tests: the first shard's record, the naming of shards, the report, the end, the tokenizer.
QUICK = [
    ("coco", "rename", ".unfinished-train/00000.json", "KILL"),
    ("coco", "rename", "train-00001-of-00002.parquet", "KILL"),
    ("coco", "rename", "report.json", "KILL"),
    ("coco", "unlink", ".unfinished-train/plan.json", "KILL"),
    ("coco", "write", ".unfinished-train/00001", "ENOSPC"),
    ("shapes", "rename", "tokenizer/tokenizer.json", "KILL"),
    ("shapes", "write", ".unfinished-tokenizer/tokenizer.json", "ENOSPC"),
    ("shapes", "fsync", "glue/.unfinished-train/00000", "EIO"),
]


@pytest.mark.parametrize(("name", "operation", "path", "kind"), QUICK)
def test_it_goes_on_to_the_same_bytes(preparing, whole, name, operation, path, kind):
    done = whole[name][1]
    matching = [number for number, each in enumerate(done, start=1) if each[0] == operation and path in each[1]]
    assert matching, sorted({" ".join(each) for each in done if each[0] == operation})
    assert not faults_of(preparing, whole, name, matching[0], kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["KILL", "ENOSPC", "EIO", "EROFS"])
@pytest.mark.parametrize("name", ["coco", "shapes"])
def test_it_goes_on_from_every_operation(preparing, whole, name, kind):
    found = []
    for number in range(1, len(whole[name][1]) + 1):
        found += faults_of(preparing, whole, name, number, kind)
    print(f"{len(whole[name][1])} operations of {name}, each with {kind}")
    assert not found, "\n".join(found)


#: Sends a signal to the process itself when it has written its second record.
SIGNALLED = """
write = shards.write_json
done = []
def signalled(path, content):
    write(path, content)
    done.append(path)
    if len(done) == 2:
        os.kill(os.getpid(), {number})
shards.write_json = signalled
"""


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGTERM, 75, "stopped by SIGTERM"),
        (signal.SIGUSR1, 75, "stopped by SIGUSR1"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("name", ["coco", pytest.param("shapes", marks=pytest.mark.slow)])
def test_signals_stop_it_and_the_same_command_goes_on(preparing, whole, name, number, code, message):
    preparing.begin_anew()
    assert preparing.run(name, None, SIGNALLED.format(number=int(number))) == code
    assert preparing.said() == [f"{message}; the same command goes on from here"]
    left = contents(preparing.output)
    assert not {".lock", ".lock.json"} & left.keys() and any(
        ".unfinished" in each or ".parquet" in each for each in left
    )
    assert preparing.run(name) == 0
    assert contents(preparing.output) == whole[name][0]


#: Waits until a file is there.
HELD = """
import time
read = prepare.plan_of
def waiting(*arguments, **options):
    while not os.path.exists({file!r}):
        time.sleep(0.05)
    return read(*arguments, **options)
prepare.plan_of = waiting
"""


def test_two_preparations_in_one_folder_are_refused(preparing, whole, capsys):
    from renaissance.commands.prepare import main

    preparing.begin_anew()
    free = preparing.folder / "free"
    process = preparing.start("coco", None, HELD.format(file=str(free)))
    while not (preparing.output / ".lock.json").is_file():
        os.sched_yield()
    with pytest.raises(SystemExit) as stopped:
        main([*preparing.commands["coco"], "--output", str(preparing.output)])
    assert stopped.value.code == 2
    assert f"output {preparing.output} is in use by process {process} on " in capsys.readouterr().err
    free.touch()
    assert preparing.end() == 0 and contents(preparing.output) == whole["coco"][0]


@pytest.mark.parametrize(
    ("name", "path", "more"),
    [
        ("coco", "validation-00000-of-00001.parquet", ["--shorter_side", "30"]),
        pytest.param("shapes", "glue/report.json", ["--seed", "1"], marks=pytest.mark.slow),
        pytest.param("shapes", "glue/report.json", ["--image_size", "48"], marks=pytest.mark.slow),
    ],
)
def test_other_options_than_those_of_what_is_finished_are_refused(preparing, whole, name, path, more):
    number = 1 + next(n for n, each in enumerate(whole[name][1]) if each[0] == "rename" and path in each[1])
    preparing.begin_anew()
    assert preparing.run(name, Fault(preparing.output, number)) == -signal.SIGKILL
    assert preparing.run(name, None, "", *more) == 2
    assert len(preparing.said()) == 1 and "already holds a prepared split" in preparing.said()[0]
    assert preparing.run(name) == 0 and contents(preparing.output) == whole[name][0]


@pytest.mark.slow
def test_what_is_only_begun_begins_anew_with_other_options(preparing, whole):
    (number,) = [
        n for n, each in enumerate(whole["coco"][1], start=1) if each == ("rename", ".unfinished-train/00000.json")
    ][:1]
    preparing.begin_anew()
    assert preparing.run("coco", Fault(preparing.output, number + 1)) == -signal.SIGKILL
    assert preparing.run("coco", None, "", "--shorter_side", "30") == 0
    broken = contents(preparing.output)
    preparing.begin_anew()
    assert preparing.run("coco", None, "", "--shorter_side", "30") == 0
    assert broken == contents(preparing.output) != whole["coco"][0]
