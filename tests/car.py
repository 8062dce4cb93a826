"""A reader of CAR files, version 1, that shares no code with the programs: it checks each block's hash and follows the
links of DAG-PB from the roots; prints roots, blocks, and what is missing, as JSON.

    car.py FILE
"""
import hashlib
import json
import sys

B58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
B32 = "abcdefghijklmnopqrstuvwxyz234567"


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def cid(data, at):
    """(codec, hash function, digest, text), and where it ends."""
    start = at
    if data[at:at + 2] == b"\x12\x20":
        n, text = int.from_bytes(data[at:at + 34], "big"), ""
        while n:
            n, rest = divmod(n, 58)
            text = B58[rest] + text
        return (0x70, 0x12, data[at + 2:at + 34], text), at + 34
    version, at = varint(data, at)
    assert version == 1, version
    codec, at = varint(data, at)
    function, at = varint(data, at)
    length, at = varint(data, at)
    digest, at = data[at:at + length], at + length
    bits = "".join(f"{byte:08b}" for byte in data[start:at])
    bits += "0" * (-len(bits) % 5)
    text = "b" + "".join(B32[int(bits[i:i + 5], 2)] for i in range(0, len(bits), 5))
    return (codec, function, digest, text), at


def header(data):
    """{"roots": [...], "version": 1} as DAG-CBOR, keys in this order."""
    assert data[:7] == b"\xa2\x65roots", data[:7]
    at = 7
    kind, count = data[at] >> 5, data[at] & 31
    assert kind == 4
    at += 1
    if count >= 24:
        width = 1 << count - 24
        count, at = int.from_bytes(data[at:at + width], "big"), at + width
    roots = []
    for _ in range(count):
        assert data[at:at + 2] == b"\xd8\x2a" and data[at + 2] == 0x58 and data[at + 4] == 0, data[at:at + 5]
        root, end = cid(data, at + 5)
        assert end == at + 4 + data[at + 3]
        roots.append(root)
        at = end
    assert data[at:] == b"\x67version\x01", data[at:]
    return roots


def links(block):
    at, found = 0, []
    while at < len(block):
        key, at = varint(block, at)
        assert key & 7 == 2
        length, at = varint(block, at)
        value, at = block[at:at + length], at + length
        if key >> 3 == 2:
            inner = 0
            while inner < len(value):
                field, inner = varint(value, inner)
                number, inner = varint(value, inner)
                if field & 7 == 2:
                    if field >> 3 == 1:
                        found.append(cid(value[inner:inner + number], 0)[0])
                    inner += number
    return found


def main(path):
    with open(path, "rb") as file:
        data = file.read()
    length, at = varint(data, 0)
    roots, at = header(data[at:at + length]), at + length
    blocks = {}
    while at < len(data):
        length, at = varint(data, at)
        end = at + length
        (codec, function, digest, text), at = cid(data, at)
        block, at = data[at:end], end
        assert function == 0x12 and hashlib.sha256(block).digest() == digest, f"false: {text}"
        blocks[codec, digest] = block
    missing, left, met = set(), list(roots), set()
    while left:
        codec, _, digest, text = left.pop()
        if (codec, digest) in met:
            continue
        met.add((codec, digest))
        if (codec, digest) not in blocks:
            missing.add(text)
        elif codec == 0x70:
            left.extend(links(blocks[codec, digest]))
    print(json.dumps({"roots": sorted(root[3] for root in roots), "blocks": len(blocks), "missing": sorted(missing)}))


main(sys.argv[1])
