from array import array

import torch

from edgelora.engine.data import Row, collate, collate_packed


def row(ids, labels, task=0, origin="a.jsonl:1"):
    return Row(array("i", ids), array("i", labels), task, origin, None, None)


def test_rows_are_padded_on_the_right():
    batch = collate([row([5, 6, 7], [-100, 6, 7]), row([8, 9], [-100, 9], 2, "b.jsonl:4")], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.labels.tolist() == [[-100, 6, 7], [-100, 9, -100]]
    assert batch.task_ids.tolist() == [0, 2]
    assert batch.rows == ("a.jsonl:1", "b.jsonl:4")
    tensors = (batch.input_ids, batch.attention_mask, batch.labels, batch.task_ids)
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


def test_a_pad_token_that_is_also_the_end_token_masks_no_real_one():
    end = 3
    batch = collate([row([5, end], [-100, end]), row([5, 6, end], [-100, 6, end])], pad_id=end)
    assert batch.labels.tolist() == [[-100, end, -100], [-100, 6, end]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_packed_rows_start_anew_and_none_predicts_the_next():
    batch = collate_packed(
        [[row([5, 6, 7], [5, 6, 7], 2), row([8, 9], [8, 9], 2, "b.jsonl:4")], [row([4], [4], 1)]], pad_id=0
    )
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [4, 0, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert batch.labels.tolist() == [[-100, 6, 7, -100, 9], [-100] * 5]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]
    assert batch.row_lengths == ((3, 2), (1,))
    assert batch.task_ids.tolist() == [2, 1]
    assert batch.rows == ("a.jsonl:1", "b.jsonl:4", "a.jsonl:1")
    tensors = (batch.input_ids, batch.attention_mask, batch.labels, batch.task_ids, batch.position_ids)
    assert {tensor.dtype for tensor in tensors} == {torch.int64}
