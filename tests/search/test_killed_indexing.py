"""Indexing that is killed, wherever it is, ends like one that was not."""

import faulthandler
import multiprocessing
import os
import signal

import pytest
from shops import CAPTIONS, held, keys, make_shop, row, write_rows

from sensorium.search.building import index_rows
from sensorium.search.index import Index

# Forks from a process that has imported what takes seconds, and has no threads of LanceDB's.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pandas", "sensorium.search.building"])

ALL = range(len(CAPTIONS))


def index_and_die(run, data, into, where, times):
    """In a process of its own: index in small pieces, and be killed at a call of something."""
    faulthandler.enable()
    import lancedb.table
    import torch

    from sensorium.search import building, layout, publishing, storage, writing

    torch.set_num_threads(1)
    writing.ROWS_AT_ONCE = writing.MOST_WAITING = 8
    owner, name = {
        "delete": (lancedb.table.LanceTable, "delete"),
        "add": (lancedb.table.LanceTable, "add"),
        "copy": (lancedb.table.LanceTable, "create_index"),
        "vectors": (publishing, "write_vectors"),
        "layout": (layout.IndexFolder, "write_layout"),
        "drop": (storage.Storage, "drop_others"),
    }[where]
    call, left = getattr(owner, name), [times]

    def counted(*given, **settings):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **settings)

    setattr(owner, name, counted)
    building.index_rows(run, data, into)


def killed(*asked):
    process = SERVER.Process(target=index_and_die, args=asked)
    process.start()
    process.join(120)
    return process.exitcode == -signal.SIGKILL


def found(into):
    index = Index(into)
    vector = index.model().ask({"text": "light thing"})
    hits = index.search(vector, "thing nr4", mode="hybrid", limit=100)
    return [(hit.key, pytest.approx(hit.score, abs=1e-5)) for hit in hits]


def close(rows):
    """Rows to be compared with others: vectors depend a little on what is beside them in a batch."""
    return {
        key: {n: pytest.approx(v, abs=1e-5) if isinstance(v, list) else v for n, v in each.items()}
        for key, each in rows.items()
    }


@pytest.fixture
def own(tmp_path):
    return make_shop(tmp_path / "shop")


@pytest.fixture
def whole(own, trained, tmp_path):
    """What an index holds and finds that nobody killed."""
    index_rows(trained, own, tmp_path / "whole")
    return held(tmp_path / "whole"), found(tmp_path / "whole")


def test_a_first_indexing_is_killed_again_and_again(own, trained, tmp_path, whole, encoded):
    into = tmp_path / "i"
    for where, times in (("add", 2), ("add", 3), ("copy", 1), ("vectors", 2), ("layout", 1)):
        assert killed(trained, own, into, where, times), where
    encoded.clear()
    done = index_rows(trained, own, into)
    assert done.embedded == 0 and not encoded  # all were stored before the last kills
    assert held(into) == close(whole[0]) and found(into) == whole[1]
    assert len([*into.glob("vectors-*")]) == 1 and not [*into.glob(".*.part")]


def test_an_update_is_killed_and_readers_find_what_they_found(own, trained, tmp_path, whole):
    rows = [row(n) for n in ALL]
    for number in range(10, 20):
        rows[number] |= {"caption": f"other thing nr{number}"}
    into = tmp_path / "i"
    index_rows(trained, own, into)
    assert found(into) == whole[1]
    write_rows(own, rows)
    for where, times in (("delete", 1), ("add", 1), ("copy", 1), ("layout", 1)):
        assert killed(trained, own, into, where, times), where
        assert found(into) == whole[1], where  # all of what was there
    assert killed(trained, own, into, "drop", 1)
    after = found(into)
    index_rows(trained, own, into)
    index_rows(trained, own, tmp_path / "fresh")
    assert found(into) == after
    assert held(into) == close(held(tmp_path / "fresh"))
    assert {key for key, _ in after} == {key for key, _ in found(tmp_path / "fresh")}
    words = Index(into).search(words="other", mode="text", limit=50)
    assert set(keys(words)) == {f"thing-{n}" for n in range(10, 20)}
