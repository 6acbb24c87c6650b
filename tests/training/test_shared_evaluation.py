"""Processes of a job share an evaluation, which comes out as that of one process, byte for byte."""

import json
import os
import signal
from collections.abc import Sequence

import pytest
import torch

from relgrounding import _ranks
from relgrounding._sharing import shared
from relgrounding._signals import Interrupted, caught, look
from relgrounding.training import build_model, evaluate_split, make_task, score_split, validation_metrics
from tests.ranks import together
from tests.training.own import settings, videos
from tests.training.tiny import tiny_config


def evaluated(model, task):
    """What one process finds: all scores, metrics of validation, results and predictions."""
    scored = score_split(model, task, task.validation, quiet=True)
    arrays = [[t.numpy().tobytes() for t in part] for part in (scored.scores, scored.proposals, scored.candidates)]
    entries, lines = evaluate_split(model, task, "test", task.test("test"), quiet=True)
    plain = [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]
    return arrays, validation_metrics(model, task, quiet=True), plain, "".join(json.dumps(line) for line in lines)


@pytest.mark.parametrize("own", [False, True])
def test_three_processes_find_what_one_does(own, tmp_path):
    batch = f"eval.batch_size={2 if own else 3}"  # two test videos: fewer batches than processes
    words = ["data.demo_pairs=40", batch, "eval.explain=true", "model.dropout=0.2"]
    task = make_task(settings(videos(tmp_path, True), "vgn", *words[1:]) if own else tiny_config(*words))
    model = build_model(task)
    alone, found = evaluated(model, task), together(3, evaluated, model, task)
    assert len(alone[0][0]) % 3 or own
    assert "explanation" in alone[3]
    assert found[0] == alone
    # Only rank 0 has lines to write.
    assert found[1] == found[2] == (*alone[:3], "")


def doubled(values: Sequence[int]):
    for value in values:
        if value == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
        look()
        yield 2 * value


def results():
    def stopped(count):
        try:
            with caught():
                return shared(range(count), doubled)
        except Interrupted as stop:
            return stop.number

    return [stopped(count) for count in (0, 1, 2, 4, 5)], _ranks.gather(_ranks.rank())


def test_shares_are_uneven_and_a_signal_to_one_ends_all():
    expected = [[], [0], [0, 2], [0, 2, 4, 6], signal.SIGUSR1], [0, 1, 2]
    assert together(3, results) == [expected] * 3


def test_a_score_travels_without_the_rest_of_its_batch():
    from relgrounding.modalities import Scored

    whole = torch.arange(4000.0)
    one = Scored(list(whole.view(-1, 2).split(20)), list(whole[:2000].split(20)), list(whole.view(-1, 2).split(20)))
    import pickle

    content = pickle.dumps(one)
    assert len(content) < 3 * 4 * 4000
    again = pickle.loads(content)
    for name in ("proposals", "scores", "candidates"):
        assert all(map(torch.equal, getattr(again, name), getattr(one, name)))
        assert len(getattr(again, name)) == 100
    assert pickle.loads(pickle.dumps(Scored())) == Scored()
