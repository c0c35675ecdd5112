"""The Hub as the command line names it: access tokens, revisions to read and to push, and mistakes in one line."""

import argparse
import contextlib
import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session, hf_hub_url, set_client_factory, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
from transformers import TrainingArguments

from .modeling.checkpoint_files import check_own_files
from .modeling.encoders import at_revision


#: What an entry of `push_revisions` counts.
UNITS = ("steps", "samples", "words")
MULTIPLES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
REVISION = re.compile(rf"(?:({'|'.join(UNITS)}):)?(\d+(?:\.\d+)?)([KMB]?)(?:=([\w.-]+))?", re.IGNORECASE)
TITLE = re.compile(rf"After \d+ ({'|'.join(UNITS)})")
SYNTAX = "a number of steps, samples or words such as 1000, samples:1M or words:10M, and =NAME after it if you like"

#: How long the first request waits for an answer, and how long each request of a push does: a large commit takes the Hub a while.
SECONDS, SECONDS_OF_A_PUSH = 10, 60

#: Options that say where a run is pushed, or what it may read. Whoever repeats the run has their own.
OF_THE_AUTHOR = frozenset(
    {
        "push_to_hub",
        "push_revisions",
        "hub_model_id",
        "hub_strategy",
        "hub_token",
        "hub_private_repo",
        "hub_always_push",
    }
    | {"hub_revision", "push_to_hub_token", "token", "trust_remote_code"}
)


#: The branch that the commits of revisions are on.
REVISIONS_BRANCH = "revisions"


@dataclass(frozen=True)
class Revision:
    """A revision to push: the `name` of its tag, and the `count` of a `unit` after which it is pushed."""

    name: str
    unit: str
    count: int

    @property
    def title(self) -> str:
        """The title of its commit, by which `check_names` knows it."""
        return f"After {self.count} {self.unit}"


def parse_revisions(entries: list[str] | None) -> list[Revision]:
    """
    Return the revisions that `push_revisions` names: `1000` and `steps:1000` are steps, `samples:1M` and `words:10M`
    samples and words; `words:10M=chck_10M` also names the tag.

    Raises:
        ValueError: If an entry cannot be read, counts less than 1, or has the name of another one.
    """
    revisions: list[Revision] = []
    for entry in entries or ():
        match = REVISION.fullmatch(entry)
        if match is None:
            raise ValueError(f"push_revisions: expected {SYNTAX}, got {entry!r}")
        unit, number, multiple, name = match.groups()
        unit = (unit or UNITS[0]).lower()
        count = float(number) * MULTIPLES[multiple.upper()]
        if count < 1 or count != int(count):
            raise ValueError(f"push_revisions: expected a whole number of {unit}, at least 1, got {entry!r}")
        name = name or f"{unit}-{number}{multiple.upper()}"
        if not is_tag_name(name):
            raise ValueError(f"push_revisions: {name!r} cannot be the name of a tag here; choose another")
        if any(name == other.name for other in revisions):
            raise ValueError(f"push_revisions: {name!r} is named twice; leave out one")
        revisions.append(Revision(name, unit, int(count)))
    return revisions


def check_reached(revisions: list[Revision], steps: int, rows: int) -> None:
    """Raise `ValueError` if a run of `steps` steps with `rows` rows each ends before one of the revisions."""
    seen = {"steps": steps, "samples": steps * rows}
    for revision in revisions:
        if revision.count > seen.get(revision.unit, math.inf):
            ends = f"this run ends after {seen[revision.unit]}"
            raise ValueError(
                f"push_revisions: {revision.name} asks for {revision.count} {revision.unit}, {ends}; leave it out"
            )


def is_tag_name(name: str) -> bool:
    """
    Return whether git takes a name, made of the characters of `REVISION`, as that of a tag, and whether it means nothing
    else: no branch, and no commit.
    """
    taken = name.lower() in ("main", "head", REVISIONS_BRANCH) or re.fullmatch("[0-9a-f]{40}", name) is not None
    return not (taken or ".." in name or name.startswith((".", "-")) or name.endswith((".", ".lock")))


def check_names(api: HfApi, repository: str, revisions: list[Revision], branch: str | None) -> None:
    """
    Raise `ValueError` if the tag of a revision, or the `branch` of `hub_revision`, cannot have its name in a repository: it
    would mean two things, or move a tag that no run has pushed.
    """
    with mistakes("push_to_hub"):
        refs = api.list_repo_refs(repository)
        branches = {each.name for each in refs.branches}
        commits = api.list_repo_commits(repository, revision=REVISIONS_BRANCH) if REVISIONS_BRANCH in branches else []
    tags = {each.name: each.target_commit for each in refs.tags}
    own = {commit.commit_id for commit in commits if TITLE.fullmatch(commit.title)}
    if branch in tags:
        raise ValueError(f"hub_revision: {branch!r} is a tag of {repository}; choose another name")
    if revisions and branch == REVISIONS_BRANCH:
        raise ValueError(f"hub_revision: {branch!r} is the branch of push_revisions; choose another name")
    for name in (each.name for each in revisions):
        if name == branch or name in branches:
            raise ValueError(f"push_revisions: {name!r} is a branch of {repository}; choose another name")
        if name in tags and tags[name] not in own:
            raise ValueError(f"push_revisions: {name!r} is a tag of {repository} already; choose another name")


def set_tag(api: HfApi, repository: str, name: str, commit: str) -> None:
    """Give a commit a tag. One that an earlier run has set, or this one before it was stopped, moves."""
    try:
        api.create_tag(repository, tag=name, revision=commit)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        api.delete_tag(repository, tag=name)
        api.create_tag(repository, tag=name, revision=commit)


def sign_in(token: str | None) -> None:
    """
    Make `token` the access token of this process and of those that it starts, for all that reads from the Hub or writes
    to it. Nothing else keeps it: arguments and command lines are saved and logged. Raise `ValueError` if it is empty.
    """
    if token is None:
        return
    if token.split() != [token]:
        raise ValueError("token: expected an access token of the Hub, got an empty one or one with spaces")
    os.environ["HF_TOKEN"] = token
    # Trackers of experiments save the command line.
    sys.argv[:] = [word.replace(token, "***") for word in sys.argv]


def take_token(args: argparse.Namespace) -> None:
    """
    Sign in with the token of a command line, and take it out: arguments are saved and logged. Raise `ValueError` if it
    gives two that differ.
    """
    given = {name: getattr(args, name) for name in ("token", "hub_token") if getattr(args, name, None) is not None}
    if len(set(given.values())) > 1:
        raise ValueError("token, hub_token: two access tokens are given, and they differ; leave out one of them")
    for name in given:
        setattr(args, name, None)
    sign_in(next(iter(given.values()), None))


def check_source(option: str, name: str | None, revision: str | None = None, kind: str = "model") -> None:
    """
    Raise `ValueError` if `name`, the value of `option`, is neither a folder nor a repository of this `kind` on the Hub, has
    no such revision, or may not be read, or if it is a folder of a model that names files elsewhere. It asks once for the repository, and once for a file of a model: what loads
    files tries for half a minute if there is no network, or if the Hub is too busy.
    """
    name, found = at_revision(name or "")
    revision = revision or found.get("revision")
    if name and kind == "model":
        check_own_files(option, name)
    if not name or Path(name).exists() or constants.is_offline_mode():
        return
    try:
        HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=SECONDS)
        if kind == "model":
            check_readable(name, revision)
    except Exception as error:  # each library on the way has errors of its own
        files = (
            try_to_load_from_cache(name, file, revision=revision) for file in ("config.json", "tokenizer_config.json")
        )
        if isinstance(error, HFValidationError):
            raise ValueError(f"{option} {name!r}: no such folder, and not the name of a repository") from error
        if not isinstance(error, HfHubHTTPError) and (kind != "model" or any(isinstance(file, str) for file in files)):
            # There is no connection, but perhaps a copy of an earlier run.
            return
        raise ValueError(f"{option} {name!r}: {reason(error)}") from error


def check_readable(name: str, revision: str | None) -> None:
    """Raise an error of the Hub if the files of a model may not be read: everybody sees that a gated one is there."""
    url = hf_hub_url(name, "config.json", revision=revision)
    answer = get_session().head(url, headers=build_hf_headers(), timeout=SECONDS)
    with contextlib.suppress(EntryNotFoundError):  # a tokenizer alone has none
        hf_raise_for_status(answer)


def check_access(args: TrainingArguments) -> None:
    """Raise `ValueError` if nothing could be pushed: no connection, no valid token, or a repository of somebody else."""
    with mistakes("push_to_hub"):
        limit_waiting(SECONDS)
        user = HfApi().whoami()
    limit_waiting(SECONDS_OF_A_PUSH)
    owner = (args.hub_model_id or "").rpartition("/")[0]
    owners = [user["name"], *(each["name"] for each in user.get("orgs", ()))]
    if owner and owner not in owners:
        raise ValueError(f"hub_model_id {args.hub_model_id}: this token writes for {', '.join(owners)}, not {owner}")


def limit_waiting(seconds: float) -> None:
    """
    Let requests to the Hub fail that wait longer than `seconds` for an answer. The client of `huggingface_hub` waits
    without end, so that a silent server would stop a run.
    """
    client = type(get_session())
    hooks = get_session().event_hooks

    def new_client() -> Any:
        return client(event_hooks=hooks, follow_redirects=True, timeout=seconds)

    set_client_factory(new_client)


@contextlib.contextmanager
def mistakes(option: str) -> Iterator[None]:
    """A context that turns an error of the Hub, or of the way to it, into a `ValueError` in one line."""
    try:
        yield
    except Exception as error:  # each library on the way has errors of its own
        raise ValueError(f"{option}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return in one line why a call of the Hub failed, and what to do."""
    chain = [error]
    while follows := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(follows)
    # The client's library of HTTP is its own affair: its errors are known by their names.
    if any(type(each).__name__.startswith(("Connect", "Timeout", "ReadTimeout", "Network")) for each in chain):
        return f"no connection to {constants.ENDPOINT}"
    if any(isinstance(each, EntryNotFoundError) for each in chain):
        return first_line(error)
    if any(isinstance(each, RevisionNotFoundError) for each in chain):
        return "no such revision there: expected a branch, a tag or a commit"
    if any(isinstance(each, RepositoryNotFoundError) for each in chain):
        return "no such repository, or a private or gated one, which needs --token or HF_TOKEN with access"
    if any(isinstance(each, LocalTokenNotFoundError) for each in chain):
        return "no access token; give --token, set HF_TOKEN, or call `hf auth login`"
    if any(isinstance(each, OfflineModeIsEnabled) for each in chain):
        return "HF_HUB_OFFLINE is set, which forbids connections; unset it"
    answered = next((each for each in chain if isinstance(each, HfHubHTTPError)), None)
    if answered is not None:
        status = answered.response.status_code
        if status == 429:
            return "the Hub answers that there were too many requests (error 429); wait a few minutes, or sign in"
        if status == 401:
            return "the Hub does not accept this access token, or wants one; check --token or HF_TOKEN"
        if status == 403:
            return f"this access token may not do that ({answered.server_message or 'forbidden'})"
        return f"the Hub answers with error {status} ({answered.server_message or first_line(answered)})"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shareable(value: Any) -> Any:
    """
    Return options or records, nested as in JSON, as others may see them: without the options of the author's
    account, and with paths that are absolute here relative to the current folder, or cut to their last part.
    """
    if isinstance(value, dict):
        return {name: shareable(each) for name, each in value.items() if name not in OF_THE_AUTHOR}
    if isinstance(value, list):
        return [shareable(each) for each in value]
    if isinstance(value, str) and os.path.isabs(value):
        path = Path(value)
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name
    return value
