"""The channel byte: every byte says one thing, or is refused."""

import itertools

import pytest

from schemas.channels import LAST_TURN, LEGAL, NO_LOSS, Channel, Part, Role, pack_channel, unpack_channel

EVERY_CHANNEL = [Channel(*fields) for fields in itertools.product(Role, Part, (False, True), (False, True))]


def repack(channel: Channel) -> int:
    return pack_channel(channel.role, channel.part, last_turn=channel.last_turn, no_loss=channel.no_loss)


def test_every_byte_unpacks_to_the_channel_that_packs_to_it_or_is_refused() -> None:
    by_byte = {repack(channel): channel for channel in EVERY_CHANNEL}
    assert len(by_byte) == len(EVERY_CHANNEL) == 6 * 6 * 4
    for byte in range(256):
        if byte in by_byte:
            assert unpack_channel(byte) == by_byte[byte]
        else:
            with pytest.raises(ValueError, match="is not a valid"):
                unpack_channel(byte)


def test_the_bits_are_where_the_format_says() -> None:
    assert pack_channel(Role.NONE, Part.TEMPLATE) == 0
    assert pack_channel(Role.TEXT, Part.BODY) == 0b00_001_101
    assert pack_channel(Role.ASSISTANT, Part.MARKUP) == 0b00_101_011
    assert pack_channel(Role.ASSISTANT, Part.END, last_turn=True) == 0b01_100_011
    assert pack_channel(Role.TOOL, Part.BODY, no_loss=True) == 0b10_001_100
    assert (LAST_TURN, NO_LOSS) == (64, 128)


def test_a_byte_is_legal_where_only_an_assistant_is_of_the_last_turn() -> None:
    legal = {repack(channel) for channel in EVERY_CHANNEL if not channel.last_turn or channel.role == Role.ASSISTANT}
    assert {byte for byte in range(256) if LEGAL[byte]} == legal
    assert len(legal) == 84
    assert LEGAL.shape == (256,)
