"""The result store: whole or not at all, checked on reading, safe to share and to kill."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from modalnet._files import read_file, write_bytes, write_file
from modalnet.errors import InputError, StoreError
from modalnet.results.store import Store

ARRAYS = {"t": np.arange(6.0).reshape(2, 3), "mask": np.array([True, False])}
META = {"model": "m", "n": {"S": 240}, "text": "naïve ☃"}


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == np.asarray(array).dtype.newbyteorder("=")
        np.testing.assert_array_equal(arrays[name], array)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


dtypes = st.sampled_from(["bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64", ">f8", ">i4"])
arrays_strategy = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable()),
    dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))),
    max_size=4,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(arrays=arrays_strategy, meta=st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_round_trip(tmp_path_factory, arrays, meta):
    store = Store(tmp_path_factory.getbasetemp() / "round-trip")
    store.put("key", arrays, meta)
    back, document = store.get("key")
    assert_same(back, arrays)
    assert document == meta


def test_arrays_that_are_not_contiguous(tmp_path):
    base = np.arange(24.0).reshape(4, 6)
    arrays = {"turned": base.T, "steps": base[::2, ::3], "back": base[::-1]}
    write_file(tmp_path / "a.safetensors", arrays, {})
    assert_same(read_file(tmp_path / "a.safetensors")[0], arrays)


def test_what_cannot_be_kept_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for bad in (np.array(["a"]), np.array([object()]), np.array([1j])):
        with pytest.raises(InputError, match="'x'"):
            write_file(path, {"x": bad}, {})
    with pytest.raises(InputError, match="__metadata__"):
        write_file(path, {"__metadata__": np.ones(1)}, {})
    for bad in ({"x": object()}, {"x": np.float32(1)}, {"x": float("nan")}):
        with pytest.raises(InputError, match="JSON"):
            write_file(path, {}, bad)
    assert os.listdir(tmp_path) == []


def test_key_follows_the_description_only():
    description = {"model": "m", "tokens": {"decoder": "last"}, "n": [1, 2]}
    key = Store.key(description)
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")
    assert key == Store.key(dict(reversed(description.items())))
    changes = [{"model": "m2"}, {"tokens": {"decoder": "mean"}}, {"n": [2, 1]}, {"n": ["1", 2]}, {"x": None}]
    assert len({key, *(Store.key({**description, **change}) for change in changes)}) == 6
    with pytest.raises(InputError, match="JSON"):
        Store.key({"x": object()})


def test_folder_comes_from_the_environment_and_making_a_store_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALNET_CACHE", str(tmp_path / "set"))
    assert Store().folder == tmp_path / "set"
    monkeypatch.delenv("MODALNET_CACHE")
    assert "modalnet" in str(Store().folder)
    store = Store(tmp_path / "given")
    assert store.get("k") is None
    assert store.entries() == []
    assert store.clear() == 0
    assert os.listdir(tmp_path) == []


def test_put_get_entries_clear(store):
    assert store.get("a") is None
    store.put("a", ARRAYS, META)
    store.put("b", {}, {})
    before = time.time()
    store.put("a", ARRAYS, META | {"n": 2})
    os.utime(store.path("b"), (1000, 1000))
    arrays, meta = store.get("a")
    assert_same(arrays, ARRAYS)
    assert meta == META | {"n": 2}
    b, a = store.entries()
    assert (a.key, b.key) == ("a", "b")
    assert a.meta == META | {"n": 2}
    assert a.size == a.path.stat().st_size
    assert int(before) <= a.created.timestamp() <= time.time() + 1
    assert a.damaged is None
    assert store.clear(["a", "gone"]) == 1
    assert [entry.key for entry in store.entries()] == ["b"]
    assert store.clear() == 1
    assert store.entries() == []


@pytest.mark.parametrize("key", ["../x", "a/b", "", "a.b", "a\n", "x" * 200])
def test_a_key_cannot_leave_the_folder(store, key):
    with pytest.raises(InputError, match="key"):
        store.get(key)


def test_every_truncation_and_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_file(path, ARRAYS, META)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(StoreError, match=r"a\.safetensors"):
            read_file(path)
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                arrays, meta = read_file(path)
            except StoreError as error:
                assert "a.safetensors" in str(error)  # noqa: PT017
            else:  # a change of the header's spelling that changes nothing that it says
                assert_same(arrays, ARRAYS)
                assert meta == META


def test_a_file_of_another_program_is_not_an_entry(tmp_path):
    import safetensors.numpy

    safetensors.numpy.save_file(ARRAYS, tmp_path / "a.safetensors")
    with pytest.raises(StoreError, match="not written by modalnet"):
        read_file(tmp_path / "a.safetensors")


def test_a_damaged_entry_is_reported_removed_and_made_again(store):
    store.put("a", ARRAYS, META)
    path = store.path("a")
    path.write_bytes(path.read_bytes()[:-1])
    (entry,) = store.entries()
    assert entry.damaged
    assert entry.meta == {}
    with pytest.warns(UserWarning, match=r"a\.safetensors is damaged"):
        assert store.get("a") is None
    assert not path.exists()
    store.put("a", ARRAYS, META)
    assert_same(store.get("a")[0], ARRAYS)


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert store.get("a") is None
    with pytest.raises(StoreError, match="MODALNET_CACHE") as caught:
        store.put("a", ARRAYS, META)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(StoreError, match="cannot be read"):
        store.entries()
    with pytest.raises(StoreError, match="cannot be read"):
        store.clear()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_entry_and_no_temporary_file(store, monkeypatch, step):
    store.put("a", ARRAYS, META)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(StoreError, match="No space left") as caught:
            store.put("a", {}, {"new": True})
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert os.listdir(store.folder) == ["a.safetensors"]
    assert store.get("a")[1] == META


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == []


def test_stray_temporary_files_are_no_entries_and_old_ones_are_cleared(store):
    store.put("a", ARRAYS, META)
    old, new = (store.folder / f".modalnet-{name}.tmp" for name in ("1-old", "2-new"))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    assert [entry.key for entry in store.entries()] == ["a"]
    assert store.clear() == 1
    assert not old.exists()
    assert new.exists()  # may be another process's, still at work


WRITER = """
import sys, numpy as np
from modalnet.results.store import Store
store, value = Store(sys.argv[1]), float(sys.argv[2])
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    store.put("key", {"x": np.full((300, 1000), value)}, {"value": value})
"""


def writer(folder, value, times):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(value), str(times)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def assert_whole(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entry = store.get("key")
    if entry is not None:
        arrays, meta = entry
        assert (arrays["x"] == meta["value"]).all()
    return entry is not None


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the platform has no kill -9")
def test_kill_in_the_middle_of_put_leaves_no_damaged_entry(store):
    moments, strays, written = random.Random(0), 0, 0
    for attempt in range(200):
        process = writer(store.folder, attempt, 10**6)
        time.sleep(moments.uniform(0.005, 0.1))
        process.kill()
        process.communicate()
        written += assert_whole(store)
        assert all(entry.damaged is None for entry in store.entries())
        left = os.listdir(store.folder) if store.folder.exists() else []
        strays = max(strays, sum(name.endswith(".tmp") for name in left))
        if attempt >= 7 and written and strays:
            break
    assert written  # something was written at all,
    assert strays  # and at least one process died in the middle of it


def test_two_processes_write_one_entry_while_a_third_reads(store):
    processes = [writer(store.folder, value, 40) for value in (1, 2)]
    reads = 0
    while any(process.poll() is None for process in processes):
        reads += assert_whole(store)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert reads
    assert os.listdir(store.folder) == ["key.safetensors"]


def test_document_is_plain_json(tmp_path):
    write_file(tmp_path / "a.safetensors", {}, META)
    data = (tmp_path / "a.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["modalnet"]) == META
