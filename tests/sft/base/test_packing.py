import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.base.packing import PADDING, Encoded, batch, best_fit, pack

PAD = 999


def document(start, length):
    tokens = np.arange(start, start + length, dtype=np.int32)
    return Encoded(tokens, np.linspace(0.5, 1.5, length, dtype=np.float32))


def best_fit_by_search(lengths, capacity):
    """The textbook's words: longest first, into the fullest bin with room, else a new bin."""
    bins, rooms = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [b for b, room in enumerate(rooms) if room >= lengths[i]]
        if fitting:
            chosen = min(fitting, key=lambda b: rooms[b])
        else:
            chosen = len(bins)
            bins.append([])
            rooms.append(capacity)
        bins[chosen].append(i)
        rooms[chosen] -= lengths[i]
    return bins, rooms


def test_hand_example():
    # capacity 10; 7 opens bin 0 (room 3), 6 bin 1 (room 4), 4 fits bin 1 exactly, 3 bin 0 exactly,
    # 2 opens bin 2
    assert best_fit([3, 7, 4, 2, 6], 10) == [[1, 0], [4, 2], [3]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 24), max_size=60))
def test_best_fit_wastes_no_more_than_the_textbook(lengths):
    bins = best_fit(lengths, 24)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    rooms = sorted(24 - sum(lengths[i] for i in b) for b in bins)
    assert rooms == sorted(best_fit_by_search(lengths, 24)[1])
    assert all(room >= 0 for room in rooms)


def test_rows_hold_every_document_whole():
    packed = pack([document(0, 5), document(100, 4), document(200, 3)], 8, PAD)
    # best fit: 5 and 3 fill a row, 4 stands alone before 4 slots of padding
    assert packed.tokens.tolist() == [
        [0, 1, 2, 3, 4, 200, 201, 202],
        [100, 101, 102, 103, PAD, PAD, PAD, PAD],
    ]
    assert packed.documents.tolist() == [[0] * 5 + [1] * 3, [0] * 4 + [PADDING] * 4]
    assert packed.num_split == 0


def test_first_tokens_and_padding_have_no_weight():
    packed = pack([document(0, 5), document(200, 3)], 10, PAD)
    assert packed.weights.tolist() == [[0, 0.75, 1.0, 1.25, 1.5, 0, 1.0, 1.5, 0, 0]]


def test_a_long_document_is_split_and_each_of_its_tokens_is_predicted_once():
    packed = pack([document(0, 20)], 8, PAD)
    # pieces overlap by one token: 0-7, 7-14, 14-19
    assert packed.num_split == 1
    assert sorted(packed.tokens[:, 0].tolist()) == [0, 7, 14]
    assert sorted(packed.tokens[packed.weights > 0].tolist()) == list(range(1, 20))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16])
def test_lengths_around_a_row(length):
    packed = pack([document(0, length)], 8, PAD)
    assert sorted(packed.tokens[packed.weights > 0].tolist()) == list(range(1, length))
    assert packed.num_split == (length > 8)


def test_every_row_comes_once_an_epoch_and_orders_differ():
    draws = np.concatenate([batch(0, step, 10, 4) for step in range(10)]).reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in draws.tolist())
    assert len({tuple(epoch) for epoch in draws.tolist()}) == 4


def test_a_batch_depends_on_seed_and_step_alone():
    later_first = [batch(3, step, 7, 3).tolist() for step in (5, 0, 2)]
    assert later_first == [batch(3, step, 7, 3).tolist() for step in (5, 0, 2)]
    assert batch(3, 5, 7, 3).tolist() != batch(4, 5, 7, 3).tolist()


def test_a_batch_may_be_larger_than_the_corpus():
    assert sorted(batch(0, 0, 2, 6).tolist()) == [0, 0, 0, 1, 1, 1]


def test_windows_keep_the_order_of_the_documents_and_lose_none():
    documents = [document(100 * i, 3 + i % 5) for i in range(40)]
    packed = pack(documents, 10, PAD, window=8)
    # Each row's documents come from one window, and windows come in order.
    windows = [{int(token) // 100 // 8 for token in row if token != PAD} for row in packed.tokens]
    assert all(len(one) == 1 for one in windows)
    order = [one.pop() for one in windows]
    assert order == sorted(order)
    assert set(order) == set(range(5))
    assert (packed.documents >= 0).sum() == sum(3 + i % 5 for i in range(40))


def test_rows_of_a_window_are_not_sorted_by_length():
    packed = pack([document(0, n % 7 + 2) for n in range(200)], 8, PAD, window=200)
    first_lengths = (packed.documents == 0).sum(axis=1)
    assert (np.diff(first_lengths) > 0).any()


def test_the_first_epoch_may_keep_the_order_of_the_file():
    draws = np.concatenate([batch(0, step, 6, 3, in_order=True) for step in range(4)])
    assert draws[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(draws[6:].tolist()) == [0, 1, 2, 3, 4, 5]
    assert draws[6:].tolist() != [0, 1, 2, 3, 4, 5]
