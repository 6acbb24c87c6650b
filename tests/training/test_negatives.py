"""Whether every batch has negatives; where none has one, training says why before its first step."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relgrounding.config import ConfigError, load_config
from relgrounding.datasets import Query
from relgrounding.modalities._batches import BatchSampler, identities
from relgrounding.training import make_task
from relgrounding.training._negatives import check_negatives
from tests.cases import no_negatives
from tests.training.tiny import tiny_config


def queries(*pairs):
    return [Query(str(i), item, text, (), group=group) for i, (item, text, group) in enumerate(pairs)]


@given(
    st.lists(
        st.tuples(st.sampled_from("vwx"), st.sampled_from(["a", "A", "b"]), st.sampled_from(["", "g"])), max_size=7
    ),
    st.integers(2, 4),
    st.integers(0, 3),
)
def test_a_run_is_refused_where_no_pair_of_any_batch_is_a_negative(pairs, batch_size, seed):
    config = tiny_config(f"data.batch_size={batch_size}", f"seed={seed}", "train.epochs=2")
    train = queries(*pairs)
    item, text, group = identities(train)
    sampler, batches = BatchSampler(group, batch_size, seed), []
    for sampler.epoch in range(2 if train else 0):
        batches += list(sampler)
    differ = (item[:, None] != item) & (text[:, None] != text)
    one_sentence = len(set(item.tolist())) > 1 and len(set(text.tolist())) == 1
    if one_sentence or any(differ[b][:, b].any() for b in batches):
        check_negatives(train, [], config)
    else:
        with pytest.raises(ConfigError, match="no batch has a negative"):
            check_negatives(train, [], config)


def test_batches_without_a_negative_are_named_once(caplog):
    many = queries(*((f"v{i % 2 if i < 30 else 0}", f"text {i % 3 if i < 30 else 0}", "") for i in range(90)))
    check_negatives(many, [], tiny_config("data.batch_size=2"))
    (record,) = caplog.records
    item, text, group = identities(many)
    alone = sum(
        not ((item[b] != item[b[0]]).any() and (text[b] != text[b[0]]).any()) for b in BatchSampler(group, 2, 0)
    )
    assert record.getMessage().startswith(f"no negative in {alone} of the first 45 batches (one image alone, or one")


def test_one_sentence_for_all_is_named_and_trained_on(caplog):
    held_out = queries(("x", "a", ""), ("x", "a", ""), ("x", "a", ""))
    check_negatives(queries(("v", "a", ""), ("w", "a", "")), held_out, tiny_config())
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("no batch has a negative, which is another image with another sentence")
    assert "2 training queries with 2 different images and 1 different sentences are left beside 3 queries held" in text
    assert text.endswith("all sentences are the same, so the run goes on and is scored, though it learns nothing")


def test_stage_2_alone_needs_negatives_only_for_its_mil_loss():
    words = ["ccl.epochs=1", "ccl.start_from=somewhere"]
    check_negatives(queries(("v", "a", ""), ("v", "b", "")), [], tiny_config(*words, "ccl.mil_weight=0"))
    with pytest.raises(ConfigError, match="2 training queries with 1 different images and 2 different sentences"):
        check_negatives(queries(("v", "a", ""), ("v", "b", "")), [], tiny_config(*words))
    with pytest.raises(ConfigError, match=r"add images and sentences, or raise data\.batch_size$"):
        check_negatives(
            queries(*(("v" + a, b, "g") for a, b in ("1a", "1b", "2a", "2b"))), [], tiny_config("data.batch_size=2")
        )
    assert torch.equal(identities([])[0], torch.zeros(0, dtype=torch.int64))


TRAIN = Path(__file__).parents[2] / "tools" / "train.py"


@pytest.mark.parametrize(("count", "queries", "left"), [(1, 0, 0), (2, 20, 1)])
def test_training_says_why_before_the_first_step(case, count, queries, left):
    case(no_negatives)
    with pytest.raises(ConfigError, match=r"^no batch has a negative, which is another video with another") as caught:
        make_task(load_config(f"own{count}.yaml"))
    text = str(caught.value)
    assert f"{queries} training queries with {left} different videos and {queries} different sentences are left" in text
    assert text.endswith("beside 20 queries held out for validation (data.validation); add videos and sentences")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_the_command_ends_before_the_first_step(case, count):
    folder = case(no_negatives)
    done = subprocess.run([sys.executable, TRAIN, "--config", f"own{count}.yaml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: no batch has a negative.*\n", done.stderr)
    assert not (folder / "runs").exists()
