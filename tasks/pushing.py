"""The part of the trainer that pushes to the Hub. Every commit holds a whole model: weights, code, processor and card."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from huggingface_hub import CommitInfo, HfApi
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy

from ..hub import (
    REVISIONS_BRANCH,
    Revision,
    check_access,
    check_names,
    mistakes,
    parse_revisions,
    reason,
    set_tag,
    shareable,
    sign_in,
)
from ..processing.masking import IGNORED
from .arguments import OPTIONS_FILE
from .checkpoints import MANIFEST, renew_manifest
from .run_state import STATE_FILE
from .saving import SavingTrainer


logger = logging.getLogger(__name__)

#: The entry of a checkpoint's trainer_state.json, among the states of callbacks, that has the samples and words seen.
SEEN_STATE = "SeenTotals"

#: Begins the names of folders that hold a push until it is done: of any push, and of a revision once it is whole.
STAGED, STAGED_REVISION = "_push-", "_revision-"

#: What only resuming reads.
OF_TRAINING = (
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
    MANIFEST,
)

#: What tells of the machine of the author; the first is also a pickle of this package's classes.
PRIVATE = ("training_args.bin", STATE_FILE)

#: Records of the run, which hold options and paths.
RECORDS = ("trainer_state.json", "run.json")

#: Written once and large: a link keeps them while the checkpoint that they are in is deleted.
LINKED = (".safetensors", ".pt", ".pth")


@dataclass
class Push:
    """A commit to come: its staged folder, its message, the branch, or `None` for the main one, and its tag, if it is a revision."""

    folder: Path
    message: str
    branch: str | None
    tag: str | None = None


class PushingTrainer(SavingTrainer):
    """
    `Trainer` whose commits all load without this package: a commit takes weights, code, processor and card from one
    folder. With `push_revisions`, commits are pushed to the branch `revisions`, each with a tag, while training goes on.

    Attributes:
        write_card: Writes the card, README.md, into the output folder; the runner sets it.
        samples_seen, words_seen: Number of training rows, and of words in their texts, of all processes so far. They
            are counted if a revision asks for them.
    """

    def __init__(self, *args, **kwargs):
        self.write_card: Callable[[], None] | None = None
        self.samples_seen = self.words_seen = 0
        self._api = HfApi(library_name="renaissance")
        self._jobs: list[Future] = []
        #: The last push of a checkpoint, which comes after those of revisions before it.
        self._checkpoint_job: Future | None = None
        #: Pushes of revisions that failed, which the end of the run tries again.
        self._failed: list[Push] = []
        self.revisions: list[Revision] = []
        #: The names of revisions that an earlier run had saved, and that this one pushes when it starts.
        self.left_over: set[str] = set()
        super().__init__(*args, **kwargs)
        sign_in(self.args.hub_token)
        # It would be saved in training_args.bin.
        self.args.hub_token = None
        if self.revisions:
            self.add_callback(RevisionCallback(self))

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """`Trainer.init_hf_repo`; raises `ValueError` in one line if the repository cannot be made."""
        # `Trainer.__init__` calls this, before its own last lines.
        self.revisions = parse_revisions(getattr(self.args, "push_revisions", None))
        if not self.is_world_process_zero():
            return
        sign_in(token or self.args.hub_token)
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        private = self.args.hub_private_repo if private is None else private
        check_access(self.args)
        with mistakes("push_to_hub"):
            self.hub_model_id = self._api.create_repo(name, private=private, exist_ok=True).repo_id
        if self.revisions or self.args.hub_revision:
            check_names(self._api, self.hub_model_id, self.revisions, self.args.hub_revision)
        self._push_left_over()

    def _push_left_over(self) -> None:
        """
        Push the revisions that an earlier run in this folder has saved but not pushed, if this run goes on from it or trains
        nothing. A run that trains deletes its other folders.
        """
        output = Path(self.args.output_dir)
        for stale in output.glob(f"{STAGED}*"):
            shutil.rmtree(stale, ignore_errors=True)
        coming = {f"{STAGED_REVISION}{each.name}": each for each in self.revisions}
        for folder in sorted(output.glob(f"{STAGED_REVISION}*")):
            goes_on = self.args.resume_from_checkpoint or not self.args.do_train
            if goes_on and folder.name in coming:
                self._push_staged_revision(folder, coming[folder.name])
                self.left_over.add(coming[folder.name].name)
            elif self.args.do_train:
                shutil.rmtree(folder, ignore_errors=True)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write the card of the run, instead of Trainer's."""
        if self.write_card is not None and self.is_world_process_zero():
            self.write_card()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """`Trainer.save_model`, whose push, of a model that is trained but not evaluated, is in the background."""
        super().save_model(output_dir, _internal_call=True)
        if self.args.push_to_hub and not _internal_call and self.is_world_process_zero():
            folder = self.staged(Path(output_dir or self.args.output_dir))
            self.in_background(Push(folder, "Model save", self.args.hub_revision))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | Future | None:
        """
        `Trainer.push_to_hub`: push the model as it is now, and the output folder. It first waits for the pushes of
        training, and tries those of revisions again that failed. Raises `ValueError` in one line if a push fails; if that
        is one of a revision, the model is pushed all the same.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        sign_in(token)
        if self.hub_model_id is None:
            self.init_hf_repo(private=private)
        # Weights that are still read must not be written over.
        self._finish_current_push()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        folder = self.staged(Path(self.args.output_dir))
        push = Push(folder, commit_message or "End of training", revision or self.args.hub_revision)
        if not blocking:
            return self.in_background(push)
        with mistakes("push_to_hub"):
            try:
                # One that fails again ends this: each waits long for a Hub that does not answer.
                while self._failed:
                    self.commit(self._failed.pop(0))
            finally:
                pushed = self.commit(push)
            return pushed

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: Trainer would push a checkpoint before it is whole; `push_checkpoint` follows."""

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Push a checkpoint in the background, as `hub_strategy` says, in one commit, unless the last push is still going on."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self._checkpoint_job is not None and not self._checkpoint_job.done():
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = self.staged(checkpoint)
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            copy_files(checkpoint, folder / name, ignore=PRIVATE)
            self.share_options(folder / name)
            renew_manifest(folder / name)
        push = Push(folder, f"Training in progress, step {self.state.global_step}", self.args.hub_revision)
        self._checkpoint_job = self.in_background(push)

    def push_revision(self, revision: Revision) -> None:
        """Push the model as it is now, with a tag, in the background. All processes call it."""
        output = Path(self.args.output_dir)
        saved = output / f"{STAGED}{revision.name}"
        self.save_model(str(saved), _internal_call=True)
        if self.is_world_process_zero():
            staged, whole = self.staged(saved), output / f"{STAGED_REVISION}{revision.name}"
            shutil.rmtree(saved)
            # A run that is killed, or that cannot push, leaves it; the same command pushes it.
            staged.rename(whole)
            self._push_staged_revision(whole, revision)

    def _push_staged_revision(self, folder: Path, revision: Revision) -> None:
        """Push the staged folder of a revision, in the background."""
        self.in_background(Push(folder, revision.title, REVISIONS_BRANCH, tag=revision.name))

    def staged(self, model: Path) -> Path:
        """
        Return a new folder with what a commit holds: the model, code and processor in the folder `model`, a card of
        this moment, and the records of the run. Nothing that training does afterwards changes it.
        """
        self.create_model_card()
        output = Path(self.args.output_dir)
        folder = Path(tempfile.mkdtemp(prefix=STAGED, dir=output))
        copy_files(output, folder, ignore=(*PRIVATE, "_*", ".*", f"{PREFIX_CHECKPOINT_DIR}-*"))
        if model != output:
            copy_files(model, folder, ignore=(*PRIVATE, *OF_TRAINING, OPTIONS_FILE, "README.md"))
        self.share_options(folder)
        return folder

    def share_options(self, folder: Path) -> None:
        """Change the recipe of the run in a folder, if it has one, into one that others can use."""
        recipe = folder / OPTIONS_FILE
        if recipe.is_file():
            content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
            options = shareable(content) | {"output_dir": f"outputs/{self.repository_name}"}
            note = "# Repeats the run. Paths are those of the author: put your data there, or change them.\n"
            text = note + yaml.safe_dump(options, sort_keys=True, allow_unicode=True)
            recipe.write_text(text, encoding="utf-8")

    @property
    def repository_name(self) -> str:
        """The name of the repository without that of its owner."""
        return self.hub_model_id.rpartition("/")[2]

    def in_background(self, push: Push) -> Future:
        """Push after all that was begun before, and log if it fails; a revision is tried again at the end."""

        def run() -> CommitInfo | None:
            try:
                return self.commit(push)
            except Exception as error:  # training goes on, whatever the client raises
                logger.warning(f"push_to_hub: {push.message!r} was not pushed: {reason(error)}. Training goes on")
                return None

        job = self._api.run_as_future(run)
        self._jobs = [each for each in self._jobs if not each.done()] + [job]
        return job

    def commit(self, push: Push) -> CommitInfo:
        """Push a staged folder as one commit, and delete it. If that fails, keep the folder of a revision, to try it again."""
        try:
            if push.branch:
                self._api.create_branch(self.hub_model_id, branch=push.branch, exist_ok=True)
            pushed = self._api.upload_folder(
                repo_id=self.hub_model_id,
                folder_path=push.folder,
                commit_message=push.message,
                revision=push.branch,
                # The branch of a revision begins with the files of the main one, or has those of the revision before.
                delete_patterns="*" if push.tag else None,
            )
            if push.tag:
                set_tag(self._api, self.hub_model_id, push.tag, pushed.oid)
        except Exception:
            if push.tag:
                self._failed.append(push)
            else:
                shutil.rmtree(push.folder, ignore_errors=True)
            raise
        shutil.rmtree(push.folder, ignore_errors=True)
        return pushed

    def _finish_current_push(self) -> None:
        """Wait for the pushes in the background."""
        for job in self._jobs:
            job.result()
        self._jobs = []

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device) -> tuple[list, object]:
        """`Trainer.get_batch_samples`, which counts the samples and words of a step if a revision asks for them."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        units = {revision.unit for revision in self.revisions} - {"steps"}
        if units:
            samples = sum(len(rows_of(batch)) for batch in batches)
            words = sum(self.count_words(batch) for batch in batches) if "words" in units else 0
            counts = torch.tensor([samples, words], device=self.args.device)
            samples, words = self.accelerator.reduce(counts, "sum").tolist()
            self.samples_seen += samples
            self.words_seen += words
        return batches, items

    def count_words(self, batch: dict) -> int:
        """Return the number of words, separated by spaces, in the texts of a batch, as its tokenizer gives them back."""
        if "input_ids" in batch:
            ids = batch["input_ids"]
        elif "mlm_input_ids" in batch:
            # Masked language modelling alone has no other copy of its text; the labels say what was masked.
            ids = torch.where(batch["mlm_labels"] == IGNORED, batch["mlm_input_ids"], batch["mlm_labels"])
        else:
            return 0
        texts = self.processing_class.tokenizer.batch_decode(ids.reshape(-1, ids.shape[-1]), skip_special_tokens=True)
        return sum(any(map(str.isalnum, word)) for text in texts for word in text.split())

    def seen(self, unit: str) -> int:
        """Return how many steps, samples or words of training there were."""
        return {"steps": self.state.global_step, "samples": self.samples_seen, "words": self.words_seen}[unit]

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        """`Trainer._init_training_state`, which also reads what a run that is resumed has seen."""
        begun = super()._init_training_state(*args, **kwargs)
        seen = self.state.stateful_callbacks.get(SEEN_STATE, {}).get("attributes", {})
        self.samples_seen, self.words_seen = seen.get("samples", 0), seen.get("words", 0)
        return begun

    def _save_checkpoint(self, model, trial) -> None:
        """`Trainer._save_checkpoint`, which also saves what training has seen."""
        if self.revisions:
            seen = {"samples": self.samples_seen, "words": self.words_seen}
            self.state.stateful_callbacks[SEEN_STATE] = {"args": {}, "attributes": seen}
        super()._save_checkpoint(model, trial)
        if self.args.push_to_hub:
            self.push_checkpoint(
                Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            )


class RevisionCallback(TrainerCallback):
    """Push each revision after the step that reaches its count."""

    def __init__(self, trainer: PushingTrainer):
        self.trainer = trainer
        self.coming: list[Revision] = []

    def on_train_begin(self, args, state, control, **kwargs):
        # A run that is resumed has pushed the others.
        later = [each for each in self.trainer.revisions if self.trainer.seen(each.unit) < each.count]
        # A run that was killed before its next checkpoint comes to a revision again that it has saved.
        self.coming = [each for each in later if each.name not in self.trainer.left_over]

    def on_step_end(self, args, state, control, **kwargs):
        for revision in [each for each in self.coming if self.trainer.seen(each.unit) >= each.count]:
            self.coming.remove(revision)
            self.trainer.push_revision(revision)

    def on_train_end(self, args, state, control, **kwargs):
        for revision in self.coming:
            seen = self.trainer.seen(revision.unit)
            logger.warning(f"push_revisions: {revision.name} was not reached: training saw {seen} {revision.unit}")


def rows_of(batch: dict) -> torch.Tensor:
    """Return an input of a batch with one entry a row."""
    names = ("attention_mask", "input_ids", "pixel_values", "image_features", "labels")
    return next(batch[name] for name in names if name in batch)


def copy_files(source: Path, target: Path, ignore: tuple[str, ...]) -> None:
    """Copy a folder into another, without what matches the patterns `ignore`; what is large and fixed is linked."""
    shutil.copytree(
        source, target, ignore=shutil.ignore_patterns(*ignore), copy_function=link_or_copy, dirs_exist_ok=True
    )
    for name in RECORDS:
        if (record := target / name).is_file():
            content = json.loads(record.read_text(encoding="utf-8"))
            record.write_text(json.dumps(shareable(content), indent=2) + "\n", encoding="utf-8")


def link_or_copy(source: str, target: str) -> str:
    """Link a large file that no longer changes, if the file system can; copy any other."""
    if source.endswith(LINKED):
        Path(target).unlink(missing_ok=True)
        try:
            os.link(source, target)
            return target
        except OSError:
            pass
    return shutil.copy2(source, target)
