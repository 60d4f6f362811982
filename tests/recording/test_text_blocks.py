"""Test that texts packed together in compressed blocks are unpacked unchanged, and take less memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kepler_core.text_blocks import Packer


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_texts_are_unpacked_unchanged(texts: list[bytes]) -> None:
    pack = Packer()
    packed = []
    for text in texts:
        packed.append(pack(text))
        assert packed[-1].unpack() == text
    assert [text.unpack() for text in packed] == texts


def test_packed_texts_take_less_memory() -> None:
    texts = [b'{"model_name":"SGDRegressorTrainer_%d","features":["bpf_cpu_time_ms"]}' % number for number in range(64)]
    pack = Packer()
    packed = [pack(text) for text in texts]
    sizes = {id(text._block): len(text._block.packed) + sum(map(len, text._block.texts)) for text in packed}
    assert sum(sizes.values()) < sum(map(len, texts)) / 3
