"""The board: printed numbers of generators, and rows that other groups send to ``results/board``.

:func:`rank_groups` puts comparable rows together (:func:`comparable`); a row of an unknown protocol stands alone.
Sent rows are read by the code that reads added rows of a table.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from sida.config.settings import Pattern, Settings, from_mapping, load_yaml
from sida.errors import SettingError, UserError
from sida.eval.measuring.protocol import protocol_named
from sida.eval.results.csv_files import read_csv
from sida.eval.results.exchange import read_numbers
from sida.eval.results.identity import UNKNOWN, Identity, comparable, lacks_digest, reason_against
from sida.eval.results.measurements import Estimate, Measurements
from sida.eval.results.numbers import HIGHER_IS_BETTER, Agreement
from sida.eval.results.published import PUBLISHED, Published, load_published
from sida.eval.results.sheet import exposure_of
from sida.files.ordinary import ordinary_files
from sida.methods.method import Exposure
from sida.methods.registry import METHODS

#: Largest standard error of a score that another one is compared with, relative to the mean. Of the studies' stored
#: values of FD, IS, precision and recall at least 97 of 100 are below it.
MOST_ERROR = 0.05
#: Folder of sent rows.
SENT = PUBLISHED.parent / "board"
#: Images seen and compute of the trainings behind printed numbers, by a pattern of their ids.
TRAINING = Path(__file__).with_name("training.csv")
#: File with facts about a row that the row does not have, beside it.
ABOUT = "about.yaml"
#: Most files of a folder of rows.
MOST_FILES = 10_000
_SHA = r"([0-9a-f]{64})?"
_ACCOUNT = r"(github|gitlab|huggingface|orcid):[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_TEXT = r".*\S.*"
#: Printed metrics of images; papers' settings and times are printed as well.
_OF_IMAGES = ("FID", "FD-DINOv2", "CLIP-FID", "FDr3", "FDr6", "SW-r14", "IS", "precision", "recall")
_NAMES = {name.lower().replace("-", "_"): name for name in _OF_IMAGES}
#: Month of arXiv 2410.14919, for the papers' own generators.
_TABLES = {"date": "2024-10", "address": "arXiv 2410.14919"}
_DATA_SETS = {
    "cifar10": "CIFAR-10 32×32", "ffhq64": "FFHQ 64×64", "afhqv2": "AFHQ-v2 64×64", "imagenet64": "ImageNet 64×64",
    "imagenet256": "ImageNet 256×256", "imagenet512": "ImageNet 512×512",
}  # fmt: skip

_TEACHERS = {"edm": "EDM", "edm2": "EDM2"}

Certainty = Literal["authors", "quoted", "self-reported", "reproduced", "not reproduced"]
#: Meaning of each certainty, for readers.
CERTAINTIES: dict[Certainty, str] = {
    "authors": "printed, read at the authors' own place",
    "quoted": "printed, quoted by others",
    "self-reported": "measured by this suite's code, sent by one group",
    "reproduced": "sent, and most other groups' scores of equal identity agree",
    "not reproduced": "sent, and other groups' scores of equal identity differ, at least half of them",
}


@dataclass(frozen=True, kw_only=True)
class About(Settings):
    """``about.yaml`` of a row that somebody sends.

    Attributes:
        origin: Person or group who measured, with an address: ``NAME, ADDRESS``.
        account: Where the group is known by one name, such as ``github:NAME``.
        generator: Name on the board; empty: the row's name.
        teacher: Teacher or start of the training, or `none`.
        data: Whether the training sees real images.
        date: Year, or year and month, of the generator's paper or page.
        address: Place of the network or of its paper.
        conditioning: Whether the generator takes classes; empty if the row's protocol says it.
        network_sha256: Digest of the generator's file, for a row without one.
    """

    origin: Annotated[str, Pattern(_TEXT, "a name with an address")]
    account: Annotated[str, Pattern(_ACCOUNT, "an account such as github:NAME or orcid:0000-0002-1825-0097")]
    generator: Annotated[str, Pattern(".{0,100}", "a name of at most 100 characters")] = ""
    teacher: Annotated[str, Pattern(_TEXT, "a name, or none")]
    data: Literal["yes", "no"]
    date: Annotated[str, Pattern(r"20\d\d(-(0[1-9]|1[0-2]))?", "a year or month such as 2026-11, in quotes")]
    address: Annotated[str, Pattern(_TEXT, "an address")]
    conditioning: Literal["", "unconditional", "class-conditional"] = ""
    network_sha256: Annotated[str, Pattern(_SHA, "64 lower-case hexadecimal digits")] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, text in vars(self).items():
            if not text.isprintable():
                raise SettingError(name, f"holds a character without a glyph: {text!a}", "remove it")
        if not _letters(self.origin.partition(",")[0]):
            raise SettingError("origin", "must begin with a name of letters", "write NAME, ADDRESS")

    @property
    def marks(self) -> set[str]:
        """Name, address and account of the group; rows that have one of them in common are of one group."""
        name, _, address = unicodedata.normalize("NFKC", self.origin).partition(",")
        letters = _letters(re.sub(r"^\s*([a-z]+:/*)?(www\.)?", "", address, flags=re.IGNORECASE))
        return {
            f"name {_letters(name)}",
            f"account {_letters(self.account)}",
            *([f"address {letters}"] * bool(letters)),
        }


def _letters(text: str) -> str:
    """Letters and digits of a name, without differences of form, accents, case and invisible characters."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    # Fillers of Hangul are letters without a glyph.
    return "".join(sign for sign in folded if unicodedata.category(sign)[0] in "LN" and sign not in "\u115f\u1160")


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """A number of the board.

    Attributes:
        generator: Name of the generator.
        data_set, conditioning: Of the images.
        nfe: Network evaluations of an image, as printed; empty or ``?`` if not said.
        metric: Name of the metric.
        text, spread: The number and its standard deviation, as printed or with four decimals.
        value: The number.
        higher: Whether higher values are better.
        identity: Identity of the number, with the networks used in training.
        teacher, data, date, address: As in :class:`About`; empty if not said.
        certainty: A key of :data:`CERTAINTIES`.
        origin: Who printed or measured it.
        notes: Further facts.
        images, compute: Images that the training saw, and its hardware, time or steps, as printed; empty if not said.
    """

    generator: str
    data_set: str
    conditioning: str
    nfe: str
    metric: str
    text: str
    spread: str
    value: float
    higher: bool
    identity: Identity
    teacher: str
    data: str
    date: str
    address: str
    certainty: Certainty
    origin: str
    notes: str
    images: str = ""
    compute: str = ""

    @property
    def exposure(self) -> list[str]:
        """Networks used in the training, as ``role: name``; ``none``, or ``unknown``."""
        exposure = self.identity.exposure
        if exposure is None:
            return ["unknown"]
        roles = (f.name for f in dataclasses.fields(Exposure) if f.name != "data")
        return [f"{role}: {name}" for role in roles for name in getattr(exposure, role)] or ["none"]


def printed_rows() -> list[BoardRow]:
    """Rows of the printed numbers: of other methods, and of the SiD papers' own generators."""
    numbers = (number for number in load_published().values() if number.metric in _OF_IMAGES)
    rows = dict.fromkeys(
        _printed_row(number)
        for number in numbers
        if re.match("board-|printed-", number.id) or (number.own and re.match("table[1-7]$", number.source))
    )
    return list(rows)


def _printed_row(number: Published) -> BoardRow:
    paper = not number.address
    base = number.method.partition(",")[0].strip().lower()
    own_data = "yes" if paper and METHODS[base].real_images else "no"
    said = (line for line in _training_facts() if fnmatchcase(number.id, line["numbers"]))
    images, compute, place = next(((line["images"], line["compute"], line["address"]) for line in said), ("", "", ""))
    return BoardRow(
        # The papers' rows of one label differ in the size of the network.
        generator=", ".join([number.row_label, *filter(None, [number.model_size if paper else ""])]),
        data_set=f"{number.dataset} {number.resolution.replace('x', '×')}",
        conditioning=number.conditioning,
        nfe=number.nfe,
        metric=number.metric,
        text=number.text,
        spread=number.std,
        value=number.value,
        higher=number.metric.lower() in HIGHER_IS_BETTER,
        identity=number.identity,
        teacher=_TEACHERS.get(number.teacher, number.teacher),
        data=own_data if paper else number.data,
        date=_TABLES["date"] if paper else number.date,
        address=_TABLES["address"] if paper else number.address,
        certainty="authors" if number.own else "quoted",
        origin="" if paper else number.source,
        notes="; ".join(filter(None, [number.notes, place and f"training: {place}"])),
        images=images,
        compute=compute,
    )


@functools.cache
def _training_facts() -> list[dict[str, str]]:
    """Lines of :data:`TRAINING`."""
    return [facts for _, facts in read_csv(TRAINING)[1]]


@dataclass(frozen=True)
class Sent:
    """A sent row: its folder's name, the sender's facts, and the measurements of one generator."""

    name: str
    about: About
    measured: Measurements

    @property
    def run(self) -> str:
        """The generator."""
        return self.measured.runs[0]

    @property
    def network(self) -> str:
        """Digest of the generator's file."""
        return self.measured.of_run(self.run)[0].network_sha256 or self.about.network_sha256


def read_sent(folder: str | Path = SENT) -> list[Sent]:
    """Reads and checks the sent rows.

    Args:
        folder: Folder with a folder for each row, which holds ``about.yaml`` and one file: ``row.json`` of
            ``sida score --out``, a record of Every Eval Ever, or the lines of ``sida score --json``.

    Raises:
        UserError: A file that does not belong there, a link, or a row that :func:`_check` refuses.
    """
    folder = Path(folder)
    files: dict[str, list[str]] = {}
    for path in ordinary_files(folder, MOST_FILES) if folder.is_dir() else ():
        name, _, file = path.partition("/")
        if "/" in file or (not file and name != "README.md"):
            raise UserError(folder / path, "does not lie in the folder of a row", f"put it into {folder}/NAME/")
        if file:
            files.setdefault(name, []).append(file)
    return [_read_sent(folder / name, names) for name, names in files.items()]


def _read_sent(folder: Path, names: Sequence[str]) -> Sent:
    rows = [name for name in names if name != ABOUT]
    if ABOUT not in names or len(rows) != 1 or not rows[0].endswith((".json", ".jsonl")):
        holds = ", ".join(names)
        raise UserError(folder, f"must hold {ABOUT} and one row.json, holds {holds}", "see docs/board.md")
    about = from_mapping(About, load_yaml(folder / ABOUT), f"{folder / ABOUT}:")
    sent = Sent(folder.name, about, read_numbers(folder / rows[0]))
    _check(sent, folder / rows[0])
    return sent


def _check(sent: Sent, path: Path) -> None:
    """Requires one generator, by its digest, with known identities, and the networks used in its training.

    Raises:
        UserError: One of these is missing, or contradicts this suite's protocol or the sender's facts.
    """
    if len(sent.measured.runs) != 1:
        raise UserError(path, f"has {len(sent.measured.runs)} generators", "send a folder for each")
    lines = sent.measured.of_run(sent.run)
    digests = {line.network_sha256 for line in lines} | {sent.about.network_sha256} - {""}
    if len(digests - {""}) != 1:
        fault = "names no network by its digest" if digests == {""} else "names two networks"
        raise UserError(path, fault, f"score the network's file, or put network_sha256 into {ABOUT}")
    if other := {line.origin for line in lines} - {"", sent.about.origin}:
        raise UserError(path, f"was measured by {min(other)}, not by {sent.about.origin}", f"correct origin in {ABOUT}")
    for line in {line.metric: line for line in lines}.values():
        where = f"{path}: {line.metric}"
        if not line.settings or lacks_digest(line.identity):
            raise UserError(where, "its feature network or reference has no digest", "score it under a protocol")
        if why := _other_protocol(line.identity, line.metric):
            raise UserError(where, f"is not protocol '{line.protocol}' of this suite ({why})", "name another protocol")
        if exposure_of(line, None) is None:
            raise UserError(where, UNKNOWN, "score it with --saw")


def _other_protocol(identity: Identity, metric: str) -> str | None:
    """Difference from the protocol of that name of this suite, besides files; None if there is none of that name."""
    try:
        protocol = protocol_named(identity.protocol).identity(metric)
    except UserError:
        return None
    return comparable(
        identity, dataclasses.replace(protocol, reference=identity.reference, extractor=identity.extractor)
    )


def sent_rows(sent: Sequence[Sent]) -> Iterator[BoardRow]:
    """Rows of sent numbers, with their agreement with other groups' scores of the same network."""
    groups = _groups(sent)
    for sent_row in sent:
        for metric in dict.fromkeys(line.metric for line in sent_row.measured.of_run(sent_row.run)):
            yield _sent_row(sent_row, metric, groups)


def _groups(sent: Iterable[Sent]) -> list[list[Sent]]:
    """Rows by group: a chain of rows, each of which has a name, address or account of the next, is one group's."""
    groups: list[tuple[set[str], list[Sent]]] = []
    for row in sent:
        same = [group for group in groups if group[0] & row.about.marks]
        groups = [group for group in groups if group not in same]
        rows = [earlier for _, earlier_rows in same for earlier in earlier_rows]
        groups.append((row.about.marks.union(*(marks for marks, _ in same)), [*rows, row]))
    return [rows for _, rows in groups]


def _sent_row(sent_row: Sent, metric: str, groups: Iterable[list[Sent]]) -> BoardRow:
    line, estimate = sent_row.measured.lines(sent_row.run, metric)[0], sent_row.measured.estimate(sent_row.run, metric)
    identity = dataclasses.replace(line.identity, exposure=exposure_of(line, None))
    certainty: Certainty = "self-reported"
    checks, votes = _compared(sent_row, metric, groups)
    if votes:
        certainty = "reproduced" if 2 * sum(votes) > len(votes) else "not reproduced"
    facts = f"{estimate.trials} trials of {line.n:,} images"
    label, higher = metric, metric in HIGHER_IS_BETTER
    try:
        protocol_metric = protocol_named(line.protocol).metric(metric)
        label, higher = _NAMES.get(metric) or protocol_metric.label or metric, protocol_metric.better == "higher"
    except UserError:
        pass  # a protocol of the sender
    return BoardRow(
        generator=sent_row.about.generator or sent_row.run,
        data_set=_DATA_SETS.get(line.protocol.partition("-")[0], line.protocol),
        conditioning=sent_row.about.conditioning,
        nfe=str(line.nfe or "") + (f" (trained with {line.trained})" if line.trained else ""),
        metric=label,
        text=f"{estimate.mean:.4f}",
        spread="" if estimate.std is None else f"{estimate.std:.4f}",
        value=estimate.mean,
        higher=higher,
        identity=identity,
        teacher=sent_row.about.teacher,
        data=sent_row.about.data,
        date=sent_row.about.date,
        address=sent_row.about.address,
        certainty=certainty,
        origin=sent_row.about.origin,
        notes="; ".join([facts, f"network {sent_row.network[:12]}", sent_row.about.account, *checks]),
    )


def _compared(sent_row: Sent, metric: str, groups: Iterable[list[Sent]]) -> tuple[list[str], list[bool]]:
    """Comparisons of a value with other groups' scores of the same images.

    Returns:
        A sentence for each score, and for each group that can be compared whether all its scores agree.
    """
    sentences, votes = list[str](), list[bool]()
    for rows in groups:
        others = [row for row in rows if sent_row not in rows and _of_same_images(sent_row, row, metric)]
        results = [(row.about.origin, _agreement(sent_row, row, metric)) for row in others]
        sentences += [
            f"{origin}: {result if isinstance(result, str) else result.outcome}" for origin, result in results
        ]
        if outcomes := [result.outcome == "agrees" for _, result in results if isinstance(result, Agreement)]:
            votes.append(all(outcomes))
    return sentences, votes


def _agreement(one: Sent, other: Sent, metric: str) -> Agreement | str:
    # The generator and the seeds are equal, but not the machine: a copy of the numbers is not a second measurement.
    values = [{line.value for line in row.measured.lines(row.run, metric)} for row in (one, other)]
    if values[0] & values[1]:
        return "not compared: has a value with the same bits, so that it may be a copy"
    here, there = (row.measured.estimate(row.run, metric) for row in (one, other))
    result = agreement_of_two(here, there, metric)
    return f"not compared: {result}" if isinstance(result, str) else result


def agreement_of_two(here: Estimate, there: Estimate, metric: str) -> Agreement | str:
    """Compares two measurements of one network by rule EQ, without a scatter of trainings; or says why it cannot.

    Args:
        here: Mean over trials.
        there: Mean over trials of equal identity, by another group.
        metric: Key of the metric.
    """
    if here.standard_error is None or there.standard_error is None:
        return "a single trial does not show the noise"
    if any(one.standard_error > MOST_ERROR * abs(one.mean) for one in (here, there) if one.standard_error):
        return f"a standard error above {100 * MOST_ERROR:g} % agrees with too much"
    error = math.hypot(here.standard_error, there.standard_error)
    return Agreement.by_rule(metric, here.mean - there.mean, error, 0.01 * abs(there.mean))


def _of_same_images(one: Sent, other: Sent, metric: str) -> bool:
    """Whether two values have one network, and equal identities; unknown seeds are not equal."""
    if one.network != other.network or not other.measured.has(other.run, metric):
        return False
    identities = [row.measured.identity(row.run, metric) for row in (one, other)]
    return identities[0] == identities[1] and identities[0].seed0 is not None


def rank_groups(rows: Sequence[BoardRow]) -> list[list[int]]:
    """Groups of rows whose values may be ordered, as indices; a row that may stand beside none is in no group.

    Any two rows of a group have one data set and conditioning, and are comparable; a row that
    :func:`reason_against` keeps from deciding anything is in no group.
    """
    groups: list[list[int]] = []
    for index, row in enumerate(rows):
        if not row.conditioning or row.identity.quoted or not row.identity.settings or reason_against(row.identity):
            continue
        for group in groups:
            others = [rows[other] for other in group]
            same = (row.data_set, row.conditioning) == (others[0].data_set, others[0].conditioning)
            if same and not any(comparable(row.identity, other.identity) for other in others):
                group.append(index)
                break
        else:
            groups.append([index])
    return [group for group in groups if len(group) > 1]
