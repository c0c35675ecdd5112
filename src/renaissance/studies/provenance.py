"""Where runs came from: the chain of runs and encoders behind each, from their records alone."""

import csv
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..tasks.run_record import FILE_NAME, Ancestor, RunRecord
from .tables import markdown_table


logger = logging.getLogger(__name__)

#: Digits of commits and digests in tables for people, which tell them apart; those for programs have all.
DIGITS = 12


@dataclass(eq=False)
class Link:
    """
    A run in a chain.

    Attributes:
        name: Its folder below the place that was searched; of a run that is not there, its name in the record of another.
        facts: What is known of it.
        did: What it did; empty if its own record is not there.
        told_by: The name of the run whose record tells of it; empty if its own does.
        before: The runs that it starts from, each with how it was read: the digest or the revision of the checkpoint.
    """

    name: str
    facts: Ancestor
    did: list[str] = field(default_factory=list)
    told_by: str = ""
    before: list[tuple["Link", Ancestor]] = field(default_factory=list)


def records_below(folder: Path) -> Iterator[tuple[str, RunRecord]]:
    """Yield the records in and below a folder with the folders that they lie in. Warn of those that are broken, which are left out."""
    for path in sorted([*folder.rglob(FILE_NAME), *folder.rglob(f"*.{FILE_NAME}")]):
        parts = path.relative_to(folder).parts
        if any(part.startswith((".", "checkpoint-")) for part in parts[:-1]):
            continue
        # Of answers beside a model, the record is called after the file of answers.
        place = path.parent if path.name == FILE_NAME else path.with_name(path.name.removesuffix(f".{FILE_NAME}"))
        try:
            record = RunRecord.read(path.parent, path.name)
        except ValueError as error:
            logger.warning(f"left out: {error}")
            continue
        yield (str(place.relative_to(folder)) if place != folder else folder.resolve().name), record


def links_of(records: Iterable[tuple[str, RunRecord]]) -> list[Link]:
    """Return all runs that records, given with their names, tell of, those first that others start from."""
    made = [(Link(name, facts_of(name, record), record.did), record) for name, record in records]
    # A copy of a folder has the record of the same run.
    own = {record.run_id: link for link, record in reversed(made)}
    others: dict[tuple, Link] = {}
    for link, record in made:
        at = link
        for ancestor in record.history:
            known = link_to(ancestor, link.name, own, others)
            if all(known is not other for other, _ in at.before):
                at.before.append((known, ancestor))
            if not ancestor.part:
                at = known
    ordered: dict[Link, None] = {}
    for link, _ in made:
        add_with_earlier(link, ordered, set())
    return list(ordered)


def facts_of(name: str, record: RunRecord) -> Ancestor:
    """Return what a record tells of its run. The data of one that did not train are those which it evaluated or predicted."""
    facts = record.as_ancestor(name)
    if record.of_split("train") is None:
        sources = dict.fromkeys(source for data in record.data for source in data.sources)
        rows = [data.rows for data in record.data]
        facts = replace(facts, sources=list(sources), rows=sum(rows) if rows and None not in rows else None)
    return facts


def add_with_earlier(link: Link, ordered: dict[Link, None], begun: set[Link]) -> None:
    """Add a run to others, behind those that it goes back to. Records that somebody has made up may go round in circles."""
    if link in ordered or link in begun:
        return
    begun.add(link)
    for other, _ in link.before:
        add_with_earlier(other, ordered, begun)
    ordered[link] = None


def link_to(ancestor: Ancestor, told_by: str, own: dict[str, Link], others: dict[tuple, Link]) -> Link:
    """Return a run that the record of another names: one that has its own record, or one of `others`, to which it is added."""
    if ancestor.run_id in own:
        return own[ancestor.run_id]
    key = (ancestor.run_id,) if ancestor.run_id else (ancestor.name, ancestor.revision, ancestor.digest)
    return others.setdefault(key, Link(ancestor.name, ancestor, told_by=told_by))


def rows_of(links: list[Link]) -> list[dict[str, Any]]:
    """Return a row for each run, for programs; `chain` has the numbers of the rows that it goes back to."""
    numbers = {id(link): number for number, link in enumerate(links, 1)}
    rows = []
    for link in links:
        facts = link.facts
        rows.append(
            {
                "number": numbers[id(link)],
                "run": link.name,
                "chain": " → ".join(map(str, chain_numbers(link, numbers))),
                "task": facts.task or facts.model_class or "",
                "did": ", ".join(link.did),
                "data": ", ".join(facts.sources),
                "rows": facts.rows,
                "objectives": ", ".join(facts.objectives),
                "frozen": ", ".join(facts.frozen),
                "seed": facts.seed,
                "steps": facts.steps,
                "samples": facts.samples,
                "started": facts.started,
                "version": facts.version,
                "commit": facts.commit,
                "uncommitted_changes": facts.uncommitted_changes,
                "read": "; ".join(f"{numbers[id(other)]}: {identity(each)}" for other, each in link.before),
                "told_by": link.told_by,
                "run_id": facts.run_id,
            }
        )
    return rows


def chain_numbers(link: Link, numbers: dict[int, int]) -> list[str]:
    """Return the numbers of the runs of a chain, those together that one run took in at the same time."""
    chain: list[str] = []
    # No longer than all runs, also if records go round in circles.
    while link is not None and link.before and len(chain) < len(numbers):
        chain.insert(0, " + ".join(str(numbers[id(each)]) for each, _ in link.before))
        # Of runs that were taken in together, only an encoder that was taken out of a model comes from further back.
        link = next((each for each, _ in link.before if each.before), None)
    return chain


def identity(ancestor: Ancestor, digits: int | None = None) -> str:
    """Return what tells a checkpoint from others of its name: its commit on the Hub and the digest of its weights."""
    told = [f"{ancestor.part} encoder" if ancestor.part != "encoder" else "encoder"] if ancestor.part else []
    if ancestor.revision:
        told.append(f"commit {ancestor.revision[:digits]}")
    if ancestor.digest:
        told.append(f"sha256 {ancestor.digest[:digits]}")
    return ", ".join(told if ancestor.revision or ancestor.digest else [*told, "weights unknown"])


def for_people(links: list[Link]) -> list[list[str]]:
    """Return the rows of a table for people, the first one with the titles."""
    numbers = {id(link): number for number, link in enumerate(links, 1)}
    rows = [["run", "goes back to", "task", "data", "options", "seed", "samples", "code", "began", "read"]]
    for link in links:
        facts = link.facts
        name = link.name if not link.told_by else f"{link.name} (not here; {link.told_by} tells)"
        task = ", ".join(filter(None, [facts.task or facts.model_class, *link.did]))
        data = ", ".join(facts.sources) + (f" ({facts.rows:,} rows)" if facts.rows else "")
        options = {"objectives": facts.objectives, "frozen": facts.frozen}
        changed = " with changes" if facts.uncommitted_changes else ""
        code = [facts.version or "", f"{facts.commit[:DIGITS]}{changed}" if facts.commit else ""]
        read = [f"{numbers[id(other)]}: {identity(each, DIGITS)}" for other, each in link.before]
        rows.append(
            [
                f"{numbers[id(link)]}. {name}",
                " → ".join(chain_numbers(link, numbers)),
                task,
                data,
                "; ".join(f"{key}: {', '.join(values)}" for key, values in options.items() if values),
                "" if facts.seed is None else str(facts.seed),
                "" if facts.samples is None else f"{facts.samples:,}",
                " ".join(filter(None, code)),
                (facts.started or "").partition("T")[0],
                "; ".join(read),
            ]
        )
    return rows


def as_markdown(links: list[Link]) -> str:
    """Return the table of runs in Markdown."""
    return f"{markdown_table(for_people(links), texts=5)}\n\n{EXPLAINED}\n"


#: What a reader of the table must know.
EXPLAINED = (
    "A chain has the numbers of rows, the first run first; read are the checkpoints that a run started from, by their commits on the Hub "
    "and the SHA-256 of their weights."
)


def as_csv(links: list[Link]) -> str:
    """Return the rows for programs as CSV."""
    rows, text = rows_of(links), io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


#: The forms of the table.
FORMS = {"markdown": as_markdown, "csv": as_csv}
