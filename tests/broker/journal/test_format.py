"""The bytes of a file; and what is written differs from what a power loss leaves."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from tollgate.broker.journal import JournalDamagedError
from tollgate.broker.journal.format import (
    CLOSING,
    END,
    FILE_HEADER_BYTES,
    OPENING,
    SEGMENT_MAGIC,
    SNAPSHOT_MAGIC,
    decode_file_header,
    decode_head,
    decode_payload,
    encode_file_header,
    encode_head,
    stored_form,
    worst_stored_bytes,
)
from tollgate.broker.journal.segment import why_damaged

SEED = 0x01234567
CHAIN = 0x89ABCDEF
SECTOR = 512
FILE = Path("file")

zeroes = st.integers(0, 700).map(bytes)
sparse = st.sampled_from([b"\x01", b"\x80", b"\xff", b"\x00\x01", bytes(15) + b"\x01"])
payloads = st.lists(zeroes | sparse | st.binary(max_size=80), max_size=6).map(b"".join)


def framed(payload: bytes, sequence: int = 7, durable: int = 5) -> bytes:
    stored = stored_form(payload)
    head, _ = encode_head(
        stored, seed=SEED, previous=CHAIN, sequence=sequence, durable=durable, kind=1
    )
    return head + stored + END


def test_a_file_header_byte_by_byte() -> None:
    body = b"TGJRNL\r\n" + struct.pack("<I", 2) + struct.pack("<QQI", 2, 41, CHAIN)
    header, seed = encode_file_header(SEGMENT_MAGIC, number=2, sequence=41, chain=CHAIN)
    assert header == body + struct.pack("<I", crc32c(body))
    assert (len(header), seed) == (FILE_HEADER_BYTES, crc32c(body))
    assert decode_file_header(FILE, header, SEGMENT_MAGIC) == (2, 41, CHAIN, seed, 2)


def test_a_header_of_another_kind_or_length_is_refused() -> None:
    header, _ = encode_file_header(SNAPSHOT_MAGIC, sequence=41, chain=CHAIN)
    with pytest.raises(JournalDamagedError, match="another kind"):
        decode_file_header(FILE, header, SEGMENT_MAGIC)
    with pytest.raises(JournalDamagedError, match="short"):
        decode_file_header(FILE, header[:-1], SNAPSHOT_MAGIC)


def test_a_record_byte_by_byte() -> None:
    stored = b"pay" + bytes(16) + b"\xff" + bytes(4)
    rest = struct.pack("<IIIQQB", crc32c(stored), CHAIN, len(stored), 7, 5, 1) + b"\xfa\xf5\xfa"
    checksum = struct.pack("<I", crc32c(rest, SEED))
    record = framed(b"pay" + bytes(20))
    assert record == b"\xf5\xfa\xf6\xf9" + checksum + rest + stored + b"\xf5"


def test_the_checksum_of_a_record_covers_all_that_it_must() -> None:
    """Length, sequence, kind, payload, the record before, and the file that it is in."""
    usual = {"seed": SEED, "previous": CHAIN, "sequence": 7, "durable": 5, "kind": 1}
    _, checksum = encode_head(b"payload", **usual)
    for name, value in usual.items():
        _, other = encode_head(b"payload", **{**usual, name: value + 1})
        assert other != checksum, name
    for stored in (b"payloae", b"payload\0", b""):
        assert encode_head(stored, **usual)[1] != checksum


@given(payloads, st.binary(max_size=30), st.binary(max_size=30))
def test_a_record_is_read_back_from_its_offset(payload: bytes, before: bytes, after: bytes) -> None:
    data = before + framed(payload) + after
    head = decode_head(data, len(before), SEED)
    assert head is not None
    assert (head.sequence, head.durable, head.previous, head.kind) == (7, 5, CHAIN, 1)
    assert len(before) + head.size + len(after) == len(data)
    assert decode_payload(data, len(before), head) == payload


@given(payloads)
def test_the_stored_form_has_no_long_zero_run_and_bounded_size(payload: bytes) -> None:
    assert bytes(17) not in stored_form(payload)
    assert len(framed(payload)) <= worst_stored_bytes(len(payload), 1)


def test_the_worst_size_is_reached() -> None:
    assert len(framed(bytes(1600))) == worst_stored_bytes(1600, 1)


def test_every_byte_of_a_mark_survives_one_flipped_bit() -> None:
    assert all(byte.bit_count() >= 2 for byte in OPENING + CLOSING + END)


@given(payloads, st.integers(0, SECTOR - 1), st.data())
def test_one_flipped_bit_never_looks_like_a_torn_write(
    payload: bytes, place: int, data: st.DataObject
) -> None:
    """The last record of a segment, anywhere in its sector, with only zeroes after it."""
    record = bytearray(framed(payload))
    bit = data.draw(st.integers(0, len(record) * 8 - 1))
    record[bit // 8] ^= 1 << bit % 8
    segment = b"\xaa" * place + record + bytes(2 * SECTOR)
    assert why_damaged(segment, place, SEED, 7, CHAIN) is not None


@given(payloads, st.integers(0, SECTOR - 1), st.data())
def test_every_set_of_missing_sectors_looks_like_a_torn_write(
    payload: bytes, place: int, data: st.DataObject
) -> None:
    record = framed(payload)
    segment = bytearray(b"\xaa" * place + record + bytes(2 * SECTOR))
    sectors = range((place + len(record) - 1) // SECTOR + 1)
    for sector in data.draw(st.sets(st.sampled_from(sectors), min_size=1)):
        start = max(place, sector * SECTOR)
        stop = (sector + 1) * SECTOR
        segment[start:stop] = bytes(stop - start)
    assert why_damaged(bytes(segment), place, SEED, 7, CHAIN) is None


@given(payloads, st.integers(0, SECTOR - 1), st.data())
def test_every_front_part_of_a_record_looks_like_a_torn_write(
    payload: bytes, place: int, data: st.DataObject
) -> None:
    """As a process leaves it that is killed while it writes."""
    record = framed(payload)
    part = record[: data.draw(st.integers(0, len(record) - 1))]
    for rest in (bytes(len(record) + SECTOR), b""):
        segment = b"\xaa" * place + part + rest
        assert why_damaged(segment, place, SEED, 7, CHAIN) is None


@pytest.mark.parametrize(("durable", "is_damage"), [(6, False), (7, True), (9, True)])
def test_a_later_record_proves_that_an_earlier_was_synced(durable: int, is_damage: bool) -> None:
    """Record 7 has lost a sector; record 8 was written when all up to `durable` were synced."""
    lost = bytearray(framed(b"x" * 2000))
    lost[SECTOR : 2 * SECTOR] = bytes(SECTOR)
    segment = bytes(lost) + framed(b"later", sequence=10, durable=durable) + bytes(SECTOR)
    reason = why_damaged(segment, 0, SEED, 7, CHAIN)
    assert (reason is not None) == is_damage
    assert not is_damage or "synced before record 10" in str(reason)


def test_a_payload_that_holds_a_record_proves_nothing() -> None:
    """A client does not know the seed, so it cannot forge a record in a payload."""
    stored = stored_form(b"forged")
    forged, _ = encode_head(stored, seed=SEED + 1, previous=CHAIN, sequence=10, durable=9, kind=1)
    lost = bytearray(framed(b"x" * 2000 + forged + stored + END))
    lost[SECTOR : 2 * SECTOR] = bytes(SECTOR)
    assert why_damaged(bytes(lost), 0, SEED, 7, CHAIN) is None


def test_without_broken_zero_runs_a_flipped_bit_looks_torn() -> None:
    payload = bytes(2000) + b"x"
    head, _ = encode_head(payload, seed=SEED, previous=CHAIN, sequence=7, durable=5, kind=1)
    damaged = head + payload[:-1] + b"y" + END + bytes(SECTOR)
    assert why_damaged(damaged, 0, SEED, 7, CHAIN) is None
