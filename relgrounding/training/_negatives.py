"""Check that batches hold negatives: the MIL loss contrasts items with other items and other sentences of the batch."""

from collections.abc import Sequence
from typing import Any

import torch

from relgrounding._printing import get_logger
from relgrounding._ranks import is_joined, world_size
from relgrounding.config import Config, ConfigError
from relgrounding.datasets import Query
from relgrounding.modalities import Cut, Piece, PieceSampler, identities, proposal_counter, training_batches
from relgrounding.training._schedule import planned

logger = get_logger("relgrounding.training")


def check_negatives(train: Sequence[Query], held_out: Sequence[Query], config: Config, store: Any = None) -> None:
    """Look for negatives in the batches of a run before it starts, and log once how many batches have none.

    Args:
        train: training queries.
        held_out: held-out queries.
        config: of the run.
        store: features of the training items, which blocks of one category need.

    Raises:
        ConfigError: no batch holds a negative. If all sentences are equal, this is only logged.
    """
    sections, epochs = config.objectives, 0
    for stage in planned(config):
        if any(kind.needs_negatives(sections[kind.name]) for kind in stage.objectives):
            epochs += stage.epochs
    if not epochs:
        return
    item, text, _ = identities(train)
    batches = training_batches(train, store, config.modality, config.data, config.seed)
    cut = job_cut(config)
    sampler = PieceSampler(batches, cut, proposals=proposal_counter(train, store, config.modality))
    total = without = 0
    if len(train) > 1:
        for batches.epoch in range(epochs):
            # A batch has two queries that differ in both, unless all share the item or all share the sentence.
            for part in (part for pieces in sampler.all_steps() for part in _parts(pieces, cut)):
                total += 1
                without += not ((item[part] != item[part[0]]).any() and (text[part] != text[part[0]]).any())
            if without < total:
                break
    word = config.modality.item
    if without == total:
        items, texts, held = len(torch.unique(item)), len(torch.unique(text)), len({q.item for q in held_out})
        remedy = ", or lower data.validation" if held > 1 else ""
        if items > 1 and texts > 1:
            remedy = ", or raise data.batch_size" + (", or leave data.block_by empty" if config.data.block_by else "")
            remedy += f", or cut batches into fewer than {cut.parts} parts" if cut.parts > 1 else ""
        message = (
            f"no batch has a negative, which is another {word} with another sentence, so nothing can be learnt: "
            f"{len(train)} training queries with {items} different {word}s and {texts} different sentences are left "
            f"beside {len(held_out)} queries held out for validation (data.validation); "
            f"add {word}s and sentences{remedy}"
        )
        if items < 2 or texts > 1:
            raise ConfigError(message)
        logger.warning(
            "%s; all sentences are the same, so the run goes on and is scored, though it learns nothing", message
        )
    elif without:
        logger.warning(
            "no negative in %d of the first %d batches (one %s alone, or one sentence alone), from which MIL learns "
            "nothing; more %ss, or a larger data.batch_size, make such batches rare",
            *(without, total, word, word),
        )
    if config.data.block_by and len(train) > 1 and not (batches.block(range(len(train))) >= 0).any():
        logger.warning(
            "data.block_by=%s puts no two training queries in one block, so that no negative is hard",
            config.data.block_by,
        )


def _parts(pieces: Sequence[Piece], cut: Cut) -> list[list[int]]:
    """Return the queries of each part of a batch that negatives are drawn from."""
    parts: list[list[int]] = [[] for _ in range(cut.parts)]
    for number, piece in enumerate(pieces):
        parts[cut.part(number)] += piece.queries
    return [part for part in parts if part]


def job_cut(config: Config) -> Cut:
    """Return how the batches of a run are cut, in the job that this process is joined to.

    Raises:
        ConfigError: whole batches have too few queries for their pieces.
    """
    train = config.train
    cut = Cut(world_size() if is_joined() else 1, train.accumulate, train.gather_negatives)
    if cut.total > 1 and config.data.batch_size < cut.least:
        raise ConfigError(
            f"data.batch_size={config.data.batch_size} is the whole batch of {cut.processes} processes with "
            f"train.accumulate={train.accumulate}, whose pieces need {cut.least} queries; raise it, or use fewer pieces"
        )
    return cut
