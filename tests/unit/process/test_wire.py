"""Messages: what goes in comes out, cuts are noticed, and nothing in a message is run."""

import io
import os
import threading

import numpy as np
import pytest

from rlpath_core.process.wire import BadMessage, read_message, write_message


def test_round_trip():
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 3), bool), "c": np.array([1, -2])}
    stream = io.BytesIO()
    write_message(stream, {"x": [1, None]}, arrays)
    write_message(stream, {})
    stream.seek(0)
    header, found = read_message(stream)
    assert header == {"x": [1, None]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        found[name][...] = 0  # writable
    assert read_message(stream) == ({}, {})
    assert read_message(stream) is None


def test_a_message_longer_than_a_pipe_holds():
    """Written and read in many parts, unbuffered."""
    reading, writing = os.pipe()
    array = np.random.default_rng(0).random((400, 400))
    with open(reading, "rb", buffering=0) as source, open(writing, "wb", buffering=0) as sink:
        thread = threading.Thread(target=write_message, args=(sink, {"x": 1}, {"a": array}))
        thread.start()
        header, found = read_message(source)
        thread.join()
    assert header == {"x": 1}
    np.testing.assert_array_equal(found["a"], array)


def test_objects_do_not_travel():
    with pytest.raises(ValueError, match="allow_pickle"):
        write_message(io.BytesIO(), {}, {"a": np.array([object()])})
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"run": "me"}], object), allow_pickle=True)
    pickled, stream = buffer.getvalue(), io.BytesIO()
    write_message(stream, {}, {"a": np.zeros(len(pickled) - 128, np.uint8)})
    assert len(stream.getvalue()) > len(pickled)
    smuggled = stream.getvalue()[: -len(pickled)] + pickled
    with pytest.raises(BadMessage, match="allow_pickle"):
        read_message(io.BytesIO(smuggled))


def test_every_cut_is_noticed():
    stream = io.BytesIO()
    write_message(stream, {"x": 1}, {"a": np.arange(3)})
    whole = stream.getvalue()
    for end in range(1, len(whole)):
        with pytest.raises(BadMessage):
            read_message(io.BytesIO(whole[:end]))


def test_chatter_is_no_message():
    with pytest.raises(BadMessage, match="no message begins"):
        read_message(io.BytesIO(b"Loading model ...\n"))
