"""The Hub goes away while a run trains: the run keeps all that it computed, and the same command pushes it once the Hub is back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import WEIGHTS, pretrain_and_push
from hub_server import HubServer

from renaissance.hub import SECONDS_OF_A_PUSH, limit_waiting
from renaissance.tasks.pushing import PushingTrainer


#: Six steps with an evaluation, and checkpoints of steps 2, 4 and 6, each of which is pushed unless the strategy is `end`.
RUN = ["--save_steps", "2", "--hub_always_push", "true", "--do_eval"]


def go_away_after(hub: HubServer, monkeypatch, step: int, how: Callable[[], None]) -> None:
    """Let the Hub go away after a step of training, when all pushes before it are done."""
    saved = PushingTrainer._save_checkpoint

    def save_checkpoint(trainer, *args) -> None:
        saved(trainer, *args)
        if trainer.state.global_step == step:
            trainer._finish_current_push()
            how()

    monkeypatch.setattr(PushingTrainer, "_save_checkpoint", save_checkpoint)


def answers_with(hub: HubServer, status: int) -> Callable[[], None]:
    """What lets the Hub answer all requests with an error."""
    return lambda: setattr(hub, "broken", lambda method, path: status)


@pytest.fixture
def train(shapes, tokenizer_folder, tmp_path) -> Callable[..., dict]:
    data = ["--eval_datasets", str(shapes / "captions")]
    return lambda *extra: pretrain_and_push(tmp_path, shapes, tokenizer_folder, *RUN, *data, *extra)


def stopped_line(train: Callable[..., dict], capsys, *extra: str) -> str:
    """The line of a run that could not push at its end: exit code 1, and no other error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        train(*extra)
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if "error: " in line]
    assert stopped.value.code == 1 and len(errors) == 1 and "Traceback" not in said.err, said.err
    # What was trained, with its metrics, is told all the same.
    assert "6 steps of 8" in said.out and "eval_loss" in said.out
    return errors[0]


def kept(run: Path) -> dict[str, bytes]:
    """The files of a run that took work."""
    names = [WEIGHTS, "trainer_state.json", *(f"checkpoint-{step}/{WEIGHTS}" for step in (2, 4, 6))]
    return {name: (run / name).read_bytes() for name in names}


#: The strategy, and what the Hub does: it refuses connections, or answers with an error. Most of them are tried again for long.
CASES = [
    ("checkpoint", 403),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("checkpoint", "refused"), ("checkpoint", 500), ("every_save", "refused"), ("every_save", 503), ("end", "refused"),
            ("end", 429),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "fault"), CASES)
def test_the_hub_goes_away_in_training(hub, train, tmp_path, monkeypatch, capsys, caplog, strategy, fault):
    leave = hub.pause if fault == "refused" else answers_with(hub, fault)
    extra = ["--hub_strategy", strategy, "--push_revisions", "1", "5=late"]
    with monkeypatch.context() as training:
        go_away_after(hub, training, 2, leave)
        line = stopped_line(train, capsys, *extra)
    run, repository = tmp_path / "run", hub.model("author/run")
    reasons = {
        "refused": f"no connection to {hub.endpoint}", 429: "error 429", 403: "this access token may not do that",
    }  # fmt: skip
    assert reasons.get(fault, f"error {fault}") in line and "push_to_hub" in line
    assert str(run) in line and "the same command pushes it" in line
    during = ["Training in progress, step 2"] * (strategy != "end")
    titles = [commit.title for commit in repository.branches["main"]]
    assert titles == ["initial commit", *during] and repository.tags.keys() == {"steps-1"}
    missed = ["After 5 steps", *(["Training in progress, step 4"] * (strategy != "end")), "Model save"]
    assert all(f"{title!r} was not pushed" in caplog.text for title in missed)
    assert json.loads((run / "eval_results.json").read_text())["eval_rows"] == 40
    before = kept(run)

    hub.resume() if fault == "refused" else setattr(hub, "broken", None)
    with monkeypatch.context() as nothing_again:
        nothing_again.setattr(PushingTrainer, "training_step", None)
        nothing_again.setattr(PushingTrainer, "prediction_step", None)
        train(*extra)
    assert kept(run) == before
    last = repository.branches["main"][-1]
    assert last.title == "End of training" and last.files[WEIGHTS] == before[WEIGHTS]
    late = repository.find("late")
    assert late.title == "After 5 steps" and late.files[WEIGHTS] not in (
        last.files[WEIGHTS],
        before[f"checkpoint-4/{WEIGHTS}"],
    )
    assert not list(run.glob("_*"))
    commits = len(repository.branches["main"])
    capsys.readouterr()
    train(*extra)
    assert "holds the finished run of 6 steps" in capsys.readouterr().out
    assert len(repository.branches["main"]) == commits


@pytest.mark.slow
def test_the_hub_is_silent_from_a_step_on(hub, train, tmp_path, monkeypatch, capsys):
    """It takes connections, and never answers."""
    monkeypatch.setattr("renaissance.hub.SECONDS_OF_A_PUSH", 0.5)
    try:
        go_away_after(hub, monkeypatch, 2, answers_with(hub, -1))
        assert "no connection" in stopped_line(train, capsys, "--hub_strategy", "every_save")
    finally:
        limit_waiting(SECONDS_OF_A_PUSH)


def test_a_hub_that_is_away_for_a_while_is_no_error(hub, train, tmp_path, monkeypatch, caplog):
    """It is back before the end of training: what it has missed comes with the last push."""
    with monkeypatch.context() as training:
        go_away_after(hub, training, 2, answers_with(hub, 403))
        come_back = PushingTrainer.push_to_hub
        training.setattr(
            PushingTrainer, "push_to_hub",
            lambda self, **kwargs: (self._finish_current_push(), setattr(hub, "broken", None), come_back(self, **kwargs))[-1],
        )  # fmt: skip
        train("--hub_strategy", "every_save", "--push_revisions", "3")
    repository = hub.model("author/run")
    assert "'After 3 steps' was not pushed" in caplog.text
    assert repository.find("steps-3").title == "After 3 steps"
    assert repository.branches["main"][-1].title == "End of training"
    assert not list((tmp_path / "run").glob("_*"))
