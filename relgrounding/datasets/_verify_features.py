"""Whether a feature file fits the queries and holds what it should."""

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from relgrounding._files import sha256
from relgrounding._printing import progress
from relgrounding._settings import ConfigError
from relgrounding._signals import look
from relgrounding.datasets._dataset import Annotations, Check, Dataset, find_file
from relgrounding.features.shards import changed_files, check_ids, hdf5_files, read_index
from relgrounding.io._errors import BadFeatures, DataError
from relgrounding.io._ids import near_id


@runtime_checkable  # so that types can be checked in tests
class Facts(Protocol):
    """What `verify` needs of a modality; `relgrounding.modalities.Modality` documents it."""

    remedy: ClassVar[str]

    def open_store(self, path: Path, in_memory: bool = True) -> Any: ...
    def comparable(self, item: str, annotations: Annotations, store: Any) -> bool: ...
    def disagreement(self, item: str, annotations: Annotations, store: Any) -> str: ...
    def outside(self, annotations: Annotations, items: Collection[str], store: Any) -> Iterator[tuple[int, str]]: ...


def feature_checks(
    dataset: Dataset,
    splits: Mapping[str, Annotations],
    annotations: Annotations,
    wanted: Sequence[str],
    facts: Facts,
    quiet: bool,
) -> Iterator[Check]:
    """Yield what `verify` finds about the features of a data set; nothing where no features are named."""
    settings = dataset.config
    if not settings.features:
        return
    try:
        remedy = "--no-features checks the annotations alone"
        path = find_file(settings, settings.features, "data.features", remedy, folders=True)
        yield from _shards(path, quiet) if path.is_dir() else _checksum(path)
        store = facts.open_store(path, in_memory=False)
        present, dim = set(store.ids), store.dim
    except (DataError, ConfigError) as error:
        yield Check("features: file", settings.features, "none", "DIFFERS", str(error))
        return
    yield Check("features: width", "one", f"{dim}", "ok")
    found, missing, unclear = set(), [], ""
    for item in wanted:
        try:
            held = store.find(item)
        except BadFeatures as error:
            held, unclear = None, unclear or f"; {error}"
        if held is None:
            missing.append(item)
        else:
            found.add(held)
    unused = present - found
    near = [(item, near_id(item, unused)) for item in missing[:3]]
    alike = "".join(f"; {item!r} against {other!r}?" for item, other in near if other)[:200]
    yield _count(
        "items missing",
        len(missing),
        f"such as {', '.join(missing[:3])}: extract them, or leave their queries out with data.on_error=skip"
        f"{unclear or (f'. {len(missing):,} missing, {len(unused):,} unused{alike}' if alike else '')}",
    )
    if unused:
        meaning = "no query refers to them; they do no harm"
        yield Check("features: items unused", "", f"{len(unused):,}", "note", meaning)
    shared = [item for item in wanted if item not in set(missing)]
    yield from _stated(store, shared, annotations, facts)
    usable = yield from _contents(store, shared, quiet)
    if any(found.reach for found in splits.values()):
        rows = [f"{split}, {text}" for split in splits for _, text in facts.outside(splits[split], usable, store)]
        yield _count("annotated boxes outside images", len(rows), rows[0] if rows else "")


def _count(what: str, count: int, meaning: str) -> Check:
    """Return the row of something that should not be there."""
    return Check(f"features: {what}", "0", f"{count:,}", *(("DIFFERS", meaning) if count else ("ok", "")))


def _stated(store: Any, items: Sequence[str], annotations: Annotations, facts: Facts) -> Iterator[Check]:
    compared, differ = 0, []
    for item in items:
        try:
            compared += facts.comparable(item, annotations, store)
            text = facts.disagreement(item, annotations, store)
        except BadFeatures as error:
            text = "" if _unreadable(store, item) else str(error)
        if text:
            differ.append(text)
    if differ:
        check, meaning = f"features: {store.states}", f"{differ[0]}: {facts.remedy}"
        yield Check(check, "as annotated", f"{len(differ):,} differ", "DIFFERS", meaning)
    elif compared:
        yield Check(f"features: {store.states}", "as annotated", f"{compared:,} the same", "ok")


def _unreadable(store: Any, item: str) -> bool:
    """Whether the features of an item cannot be read at all, which the rows of `_contents` report."""
    try:
        store[item]
    except BadFeatures:
        return True
    return False


def _contents(store: Any, items: Sequence[str], quiet: bool) -> Generator[Check, None, list[str]]:
    """Yield what is checked of the features of each item, and return the items whose features can be used."""
    bad: Counter[str] = Counter()
    first: dict[str, str] = {}
    usable: list[str] = []
    rows: list[int] = []
    outside = 0
    for item in progress(items, desc="features", unit="item", quiet=quiet):
        look()
        try:
            found = store[item]
        except BadFeatures as error:
            kind = "NaN or infinity" if "NaN" in str(error) else "shape, box or damage"
            bad[kind] += 1
            first.setdefault(kind, str(error))
            continue
        usable.append(item)
        rows.append(len(getattr(found, "features", found)))
        boxes = getattr(found, "boxes", np.zeros((0, 4)))
        if len(boxes):
            outside += bool((boxes[:, :2] < -1).any() or (boxes[:, 2:] > np.array(found.size) + 1).any())
    for kind in ("NaN or infinity", "shape, box or damage"):
        yield _count(kind, bad[kind], first.get(kind, ""))
    if rows:
        single = sum(n < 2 for n in rows)
        meaning = f"{single:,} items have a single one: every answer to them is the same" if single else ""
        spread = f"{min(rows)} to {max(rows)}"
        yield Check("features: rows per item", "2 or more", spread, "note" if single else "ok", meaning)
    left_out = getattr(store, "left_out", None)  # stores of regions count the boxes that they leave out
    if left_out is not None:
        meaning = "boxes hang over by more than a pixel: of images of another size?"
        yield _count("boxes outside images", outside, meaning)
    if left_out:
        meaning = "of no area, or with their centre outside: never proposed; prepare.py features leaves them out"
        yield Check("features: boxes left out", "", f"{sum(left_out.values()):,}", "note", meaning)
    return usable


def _shards(path: Path, quiet: bool) -> Iterator[Check]:
    """Yield what is checked of a folder of shards as a whole.

    Raises:
        DataError: a shard is missing or half-written, or the index cannot be used.
    """
    index = read_index(path)
    yield Check("features: shards", "as indexed", f"{len(index.shards):,}", "ok")
    changed = list(changed_files(index, quiet))
    if changed:
        meaning = f"changed since the index was made, such as {changed[0]}: copy or make it again"
        yield Check("features: SHA-256", "as indexed", f"{len(changed):,} differ", "DIFFERS", meaning)
    else:
        yield Check("features: SHA-256", "as indexed", "the same", "ok")
    try:
        check_ids(index, quiet)
        yield Check("features: ids of shards", "as indexed", "the same", "ok")
    except BadFeatures as error:
        yield Check("features: ids of shards", "as indexed", "others", "DIFFERS", str(error))
    others = sorted({file.name for file in hdf5_files(path)} - {shard.file for shard in index.shards})
    if others:
        meaning = f"such as {others[0]}: not read; if they belong to it, relgrounding prepare index {path}"
        yield Check("features: files not indexed", "", f"{len(others):,}", "note", meaning)


def _checksum(path: Path) -> Iterator[Check]:
    beside = path.with_name(path.name + ".sha256")
    if not beside.is_file():
        return
    if beside.read_text(encoding="utf-8-sig", errors="replace").split()[:1] == [sha256(path)]:
        yield Check("features: SHA-256", "as when made", "the same", "ok")
    else:
        meaning = "the file has changed since it was made: copy or make it again"
        yield Check("features: SHA-256", "as when made", "another", "DIFFERS", meaning)
