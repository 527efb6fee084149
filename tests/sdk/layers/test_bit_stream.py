"""Codes in a stream of bits."""

import pytest
import torch

from edgelora.layers.bit_stream import pack, unpack


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 1001])
def test_what_is_packed_comes_back_and_takes_no_more_bits_than_it_must(bits, count):
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(count))
    stream = pack(codes, bits)
    assert stream.dtype == torch.uint8 and len(stream) == -(-count * bits // 8)
    assert torch.equal(unpack(stream, bits)[:count], codes)


def test_the_first_code_is_in_the_high_bits():
    assert pack(torch.tensor([15, 1]), 4).tolist() == [0xF1]
    assert pack(torch.tensor([3, 0, 0, 1]), 2).tolist() == [0b11000001]
    assert pack(torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]), 3).tolist() == [0b00101001, 0b11001011, 0b10111000]
    assert pack(torch.tensor([7]), 3).tolist() == [0b11100000]
