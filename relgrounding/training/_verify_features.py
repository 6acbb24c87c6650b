"""Whether a feature file fits the queries and holds what it should."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from relgrounding._signals import look
from relgrounding.config import Config, ConfigError, find_file
from relgrounding.datasets._annotations import Annotations
from relgrounding.features._stores import ClipFeatures, RegionFeatures
from relgrounding.io._errors import BadFeatures, DataError
from relgrounding.io._ids import near_id
from relgrounding.modalities._facts import disagreement, remedy

Found = tuple[str, str, str, str, str]


def feature_rows(config: Config, annotations: Annotations, video: bool, quiet: bool) -> Iterator[Found]:
    """Yield rows of the table of `relgrounding.training._verify`, none where no features are named."""
    settings = config.data
    if not settings.features:
        return
    try:
        path = find_file(settings, settings.features, "data.features", "--no-features checks the annotations alone")
        yield from _checksum(path)
        store = ClipFeatures(path, in_memory=False) if video else RegionFeatures(path, in_memory=False)
        present = set(store.ids)
        dim = store.dim
    except (DataError, ConfigError) as error:
        yield "features: file", settings.features, "none", "DIFFERS", str(error)
        return
    yield "features: width", "one", f"{dim}", "ok", ""
    wanted = {query.item for query in annotations.queries}
    found, missing, unclear = set(), [], ""
    for item in sorted(wanted):
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
    meaning = (
        f"such as {', '.join(missing[:3])}: extract them, or leave their queries out with data.on_error=skip"
        f"{unclear or (f'. {len(missing):,} missing, {len(unused):,} unused{alike}' if alike else '')}"
    )
    yield (
        "features: items missing",
        "0",
        f"{len(missing):,}",
        "DIFFERS" if missing else "ok",
        meaning if missing else "",
    )
    if unused:
        yield "features: items unused", "", f"{len(unused):,}", "note", "no query asks about them; they do no harm"
    shared = sorted(wanted - set(missing))
    yield from _facts(store, shared, annotations)
    yield from _contents(store, shared, quiet)


def _facts(store: ClipFeatures | RegionFeatures, items: Sequence[str], annotations: Annotations) -> Iterator[Found]:
    video = isinstance(store, ClipFeatures)
    compared, differ = 0, []
    for item in items:
        try:
            if isinstance(store, ClipFeatures):
                compared += item in annotations.durations and store.duration(item) is not None
            else:
                compared += item in annotations.sizes
            text = disagreement(item, annotations, store)
        except BadFeatures as error:
            text = str(error)
        if text:
            differ.append(text)
    if compared or differ:
        found = f"{len(differ):,} differ" if differ else f"{compared:,} the same"
        meaning = f"{differ[0]}: {remedy(video)}" if differ else ""
        check = "features: durations" if video else "features: image sizes"
        yield check, "as annotated", found, "DIFFERS" if differ else "ok", meaning


def _contents(store: ClipFeatures | RegionFeatures, items: Sequence[str], quiet: bool) -> Iterator[Found]:
    bad: Counter[str] = Counter()
    first: dict[str, str] = {}
    rows: list[int] = []
    outside = 0
    for item in tqdm(items, desc="features", unit="item", disable=quiet):
        look()
        try:
            found = store[item]
        except BadFeatures as error:
            kind = "NaN or infinity" if "NaN" in str(error) else "shape, box or damage"
            bad[kind] += 1
            first.setdefault(kind, str(error))
            continue
        if isinstance(found, np.ndarray):
            rows.append(len(found))
        else:
            features, boxes, (width, height) = found
            rows.append(len(features))
            limit = np.array([width, height]) + 1
            outside += bool(len(boxes) and ((boxes[:, :2] < -1).any() or (boxes[:, 2:] > limit).any()))
    for kind in ("NaN or infinity", "shape, box or damage"):
        count = bad[kind]
        yield f"features: {kind}", "0", f"{count:,}", "DIFFERS" if count else "ok", first.get(kind, "")
    single = sum(n < 2 for n in rows)
    if rows:
        spread = f"{min(rows)} to {max(rows)}"
        meaning = f"{single:,} items have a single one: every answer to them is the same" if single else ""
        yield "features: rows an item", "2 or more", spread, "note" if single else "ok", meaning
    if isinstance(store, RegionFeatures):
        meaning = "boxes hang over by more than a pixel: of images of another size?"
        yield (
            "features: boxes outside images",
            "0",
            f"{outside:,}",
            "DIFFERS" if outside else "ok",
            meaning * bool(outside),
        )
        if store.left_out:
            meaning = "of no area, or with their centre outside: never proposed; prepare.py features leaves them out"
            yield "features: boxes left out", "", f"{sum(store.left_out.values()):,}", "note", meaning


def _checksum(path: Path) -> Iterator[Found]:
    beside = path.with_name(path.name + ".sha256")
    if not beside.is_file():
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    same = beside.read_text(encoding="utf-8-sig", errors="replace").split()[:1] == [digest.hexdigest()]
    meaning = "" if same else "the file has changed since it was made: copy or make it again"
    yield "features: SHA-256", "as when made", "the same" if same else "another", "ok" if same else "DIFFERS", meaning
