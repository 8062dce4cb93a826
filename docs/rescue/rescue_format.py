"""The repository format, read: keys, packs, blobs, entries. A part of rescue.py, which lies beside it.

Written from docs/FORMAT.md alone. Every byte that is given out was authenticated and is what its id says.
"""
import contextlib
import errno
import functools
import hashlib
import hmac
import itertools
import json
import os
import re
import struct
import sys
from types import SimpleNamespace as Record

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

VERSION, FEATURES, HPKE_INFO = 0, set(), b'neurashield segment v0'
SEGMENT, PACK, INDEX, REFS = b'NSsegmnt', b'NSpack00', b'NSindex0', b'NSrefs00'
DATA, PAGE, TABLE, PIECES = 1, 2, 3, 4
FOLDER, FILE, SYMLINK, LINK, FIFO, SOCKET, CHARACTER, BLOCK = range(1, 9)
HEADER, ROW, ABSENT, MIB = struct.Struct('<8sHBBI16s16s16s32s48sIIQ'), struct.Struct('<32sBBHII'), 1, 1 << 20
FINDINGS = []


class Refused(Exception):
    """What was read is damaged, foreign or hostile; the text says what."""


# What reading can end in where bytes are not what they should be.
BROKEN = (Refused, OSError, ValueError, LookupError, TypeError, struct.error, InvalidTag, InvalidSignature, zstandard.ZstdError)


def need(condition, text):
    if not condition:
        raise Refused(text)


@contextlib.contextmanager
def reading(what, go_on=False):
    """Says what was read when it is broken; with `go_on`, that is kept as a finding and the work goes on."""
    try:
        yield
    except BROKEN as error:
        text = f'{what}: {error if isinstance(error, (Refused, OSError)) else repr(error)}'
        if not go_on:
            raise Refused(text) from error
        if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # everything else would fail with it
        FINDINGS.append(text)
        print(text, file=sys.stderr)


def known(version):
    need(version == VERSION, f'format version {version}, but this reader knows version {VERSION} only')


def shown(path):
    """A path as text that does no harm to a terminal."""
    text = path if isinstance(path, str) else os.fsdecode(path)
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def keyed(key, *parts):
    return blake3(b''.join(parts), key=key).digest()


class Bytes:
    """Reads one encoded thing, in order and never behind its end."""

    def __init__(self, data, magic=None):
        self.data, self.at = data, 0
        if magic:
            need(self.take(8) == magic, f'it does not start with {magic.decode()}')
            known(self.uint(2))
            need(self.uint(2) == 0, 'reserved bytes are set')

    def take(self, length):
        self.at += length
        need(self.at <= len(self.data), 'it ends too early')
        return self.data[self.at - length:self.at]

    def uint(self, size):
        return int.from_bytes(self.take(size), 'little')

    def varint(self, most=(1 << 64) - 1):
        value = shift = 0
        while (byte := self.uint(1)) > 127 and shift < 63:
            value, shift = value | (byte & 127) << shift, shift + 7
        need(value | byte << shift <= most, 'a number is too large')
        return value | byte << shift

    def string(self, most):
        return self.take(self.varint(most))

    def many(self, most, read):
        return [read() for _ in range(self.varint(most))]

    def ids(self):
        return self.many(MIB, lambda: self.take(32))


def hpke_open(private, encapsulated, associated, sealed):
    """RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, the first message."""
    def extract(suite, salt, label, data=b''):
        return hmac.digest(salt, b'HPKE-v1' + suite + label + data, 'sha256')

    def expand(suite, key, label, data, length):  # one block is enough for all lengths here
        return hmac.digest(key, struct.pack('>H', length) + b'HPKE-v1' + suite + label + data + b'\1', 'sha256')[:length]

    kem, suite = b'KEM\0\x20', b'HPKE\0\x20\0\1\0\2'
    agreed = extract(kem, b'', b'eae_prk', private.exchange(X25519PublicKey.from_public_bytes(encapsulated)))
    shared = expand(kem, agreed, b'shared_secret', encapsulated + private.public_key().public_bytes_raw(), 32)
    context = b'\0' + extract(suite, b'', b'psk_id_hash') + extract(suite, b'', b'info_hash', HPKE_INFO)
    secret = extract(suite, shared, b'secret')
    key, nonce = expand(suite, secret, b'key', context, 32), expand(suite, secret, b'base_nonce', context, 12)
    return AESGCM(key).decrypt(nonce, sealed, associated)


def recovery_secret(text):
    """The 32 bytes that a recovery key stands for, or None if there is none in the text."""
    found = re.search(r'NSRK((?:[-\s]*[0-9A-TV-Z]){56})(?![0-9A-Z])', text.upper())
    if not found:
        return None
    number = 0
    for digit in re.sub(r'[-\s]', '', found[1]).translate(str.maketrans('OIL', '011')):
        number = number << 5 | '0123456789ABCDEFGHJKMNPQRSTVWXYZ'.index(digit)
    secret = number.to_bytes(35, 'big')
    need(hashlib.sha256(secret[:32]).digest()[:3] == secret[32:], 'the recovery key has a typing error')
    return secret[:32]


class Segment:
    """Where a segment lies, its header and its table."""

    def __init__(self, pack, at, read):
        self.pack, self.cipher, head = pack, None, read(HEADER.size)
        (magic, version, _, zero, self.epoch, self.repository, self.domain, self.id, self.encapsulated, self.sealed,
         count, zero2, body) = HEADER.unpack(head)
        known(version)
        need(magic == SEGMENT and zero == zero2 == 0 and 1 <= count <= 65536, 'the header of a segment cannot be')
        self.bound, self.rows = head[:64], list(ROW.iter_unpack(read(ROW.size * count)))
        lengths = (0 if row[3] & ABSENT else row[5] for row in self.rows)
        *self.starts, self.end = itertools.accumulate(lengths, initial=at + HEADER.size + ROW.size * count)
        need(self.end - self.starts[0] == body, 'the table of a segment does not fit its body')


class Repository:
    def __init__(self, root):
        self.root, self.private, self.domain_secret, self.bad = root, None, None, set()
        self.open_blob = functools.lru_cache(8)(self.open_blob)
        with reading('repository/config.json'):
            self.signer = json.loads(self.read('repository/config.json').splitlines()[-1])['ed25519']
            config = self.signed('repository/config.json')
            known(config['format'])
            unknown = set(config['required_features']) - FEATURES
            need(not unknown, f'it needs features that this reader does not know: {", ".join(sorted(unknown))}')
            need(config['signing_key'] == self.signer, 'it is signed with another key than it names')
            self.id = bytes.fromhex(config['id'])

    def list(self, folder, pattern):
        path = os.path.join(self.root, folder)
        return sorted(name for name in os.listdir(path) if re.fullmatch(pattern, name)) if os.path.isdir(path) else []

    def read(self, path, sha256=None, most=16 * MIB):
        with open(os.path.join(self.root, path), 'rb') as file:
            data = file.read(most + 1)
        need(len(data) <= most, 'it is larger than it may be')
        need(sha256 in (None, hashlib.sha256(data).hexdigest()), 'it is damaged: its SHA-256 is another')
        return data

    def signed(self, path, sha256=None):
        data = self.read(path, sha256)
        end = data.rstrip(b'\n').rfind(b'\n') + 1
        with reading('it is damaged or not signed by this repository'):
            signature = bytes.fromhex(json.loads(data[end:])['signature'])
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.signer)).verify(signature, data[:end])
        return json.loads(data[:end])

    def unlock(self, given):
        """Opens a slot with its secret, then the keyring. The files of both are there twice."""
        recovery, root, ring = recovery_secret(given.decode('utf-8', 'replace')), None, None

        def slot_key(kind, salt, cost):
            if kind == 'passphrase':
                return Argon2id(salt=salt, length=32, iterations=cost['passes'], lanes=cost['lanes'],
                                memory_cost=min(cost['memory_kib'], 4 * MIB)).derive(given.rstrip(b'\r\n'))
            context = f'neurashield backup 2026 {kind.replace("_", " ")} slot'
            return blake3((recovery or given) + salt, derive_key_context=context).digest()

        def unseal(box, key, bound):
            with contextlib.suppress(InvalidTag):
                return AESGCM(key).decrypt(bytes.fromhex(box['nonce']), bytes.fromhex(box['sealed']), bound)

        for name in self.list('repository/keys/slots', r'.*\.json'):
            with reading(f'key slot {name}', go_on=True):
                slot = json.loads(self.read(f'repository/keys/slots/{name}'))
                if (slot['kind'] == 'recovery') == bool(recovery) and not root:
                    key = slot_key(slot['kind'], bytes.fromhex(slot['salt']), slot.get('argon2'))
                    root = unseal(slot, key, b'slot\0' + self.id + f'{slot["slot"]}\0{slot["kind"]}'.encode())
        need(root, 'this key opens none of the slots of this repository')
        for name in self.list('repository/keys', r'keyring\..*\.json'):
            with reading(name, go_on=True):
                ring = ring or unseal(json.loads(self.read(f'repository/keys/{name}')), root, b'keyring\0' + self.id)
        need(ring, 'no copy of the keyring can be opened')
        ring = json.loads(ring)
        signer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(ring['signing'])).public_key().public_bytes_raw()
        need(signer.hex() == self.signer, 'config.json is signed by another key than the keyring holds: it was replaced')
        self.private = {one['epoch']: X25519PrivateKey.from_private_bytes(bytes.fromhex(one['private'])) for one in ring['sealing']}
        self.domain_secret = bytes.fromhex(ring['domain_secret'])

    def id_key(self, domain):
        return keyed(self.domain_secret, b'id key\0', domain)

    def pack_path(self, pack):
        return os.path.join(self.root, 'repository/packs', pack[:2], pack)

    def indexed(self):
        """What the index files say of packs: their length and segments."""
        found = {}
        for folder in self.list('repository/index', '[0-9a-f]{32}'):
            for name in self.list(f'repository/index/{folder}', '[0-9a-f]{64}'):
                with reading(f'index file {name}', go_on=True):
                    file = Bytes(self.read(f'repository/index/{folder}/{name}', name, 256 * MIB), INDEX)
                    file.take(16)
                    file.ids()
                    for _ in range(file.varint()):
                        pack, length = file.take(32).hex(), file.varint()
                        found[pack] = length, file.many(65536, lambda: Segment(pack, file.varint(), file.take))
        return found

    @functools.cached_property
    def packs(self):
        """The segments of every pack: from the index where it knows the pack, else from the pack itself."""
        found, indexed = {}, self.indexed()
        for shard in self.list('repository/packs', '[0-9a-f]{2}'):
            for pack in self.list(f'repository/packs/{shard}', '[0-9a-f]{64}'):
                length, found[pack] = indexed.pop(pack, (None, []))
                with reading(f'pack {pack}', go_on=True), open(self.pack_path(pack), 'rb') as file:
                    if length != os.fstat(file.fileno()).st_size:
                        for _ in range(Bytes(file.read(16), PACK).data[12]):
                            found[pack].append(Segment(pack, file.tell(), file.read))
                            file.seek(found[pack][-1].end)
        return found

    def sound(self):
        """Which blobs are there and not known to be damaged, by domain and segment."""
        found = {}
        for segment in itertools.chain(*self.packs.values()):
            there = {n for n, row in enumerate(segment.rows) if not row[3] & ABSENT and (segment, n) not in self.bad}
            found.setdefault((segment.domain, segment.id), set()).update(there)
        return found

    @functools.lru_cache(1)
    def blobs(self, domain):
        """Where the blobs of a domain lie, by id: one place or more. One domain at a time, for there may be many."""
        found = {}
        for segment in itertools.chain(*self.packs.values()):
            for ordinal, row in enumerate(segment.rows if segment.domain == domain else ()):
                if not row[3] & ABSENT and (segment, ordinal) not in self.bad:
                    found.setdefault(row[0], []).append((segment, ordinal))
        return found

    def open_blob(self, segment, ordinal):
        """Kind and plaintext of a blob, or Refused: never a wrong byte."""
        blob, kind, codec, _, plain, stored = segment.rows[ordinal]
        with reading(f'blob {blob.hex()[:16]} in pack {segment.pack} is damaged'):
            need(plain <= 64 * MIB and stored <= 65 * MIB and codec < 2 and segment.repository == self.id, 'its header cannot be')
            if segment.cipher is None:
                private = self.private[segment.epoch]
                segment.cipher = AESGCM(hpke_open(private, segment.encapsulated, segment.bound, segment.sealed))
            with open(self.pack_path(segment.pack), 'rb') as file:
                data = os.pread(file.fileno(), stored, segment.starts[ordinal])
            bound = b'blob\0' + self.id + segment.domain + segment.id + struct.pack('<IBBII', ordinal, kind, codec, plain, stored) + blob
            data = segment.cipher.decrypt(struct.pack('<QI', ordinal, 0), data, bound)
            data = zstandard.ZstdDecompressor().stream_reader(data).read(plain + 1) if codec else data
            need(len(data) == plain and keyed(self.id_key(segment.domain), b'blob\0', bytes([kind]), data) == blob, 'it is not what its id says')
            return kind, data

    def blob(self, domain, blob, kind):
        reason = Refused(f'blob {blob.hex()[:16]} is in no pack')
        for place in self.blobs(domain).get(blob, ()):
            try:
                found, data = self.open_blob(*place)
                need(found == kind, f'blob {blob.hex()[:16]} is used as what it is not')
                return data
            except Refused as error:
                reason = error
        raise reason


def read_refs(data):
    """The domain, and by segment which ordinals an archive needs. The payload is there twice."""
    file = Bytes(data, REFS)
    length, checksum = file.uint(8), file.take(32)
    payload = next((one for one in (file.take(length), file.take(length)) if hashlib.sha256(one).digest() == checksum), None)
    need(payload is not None, 'both copies are damaged')
    payload = Bytes(payload)

    def bits(count):
        need(count <= 65536, 'a segment has too many blobs')
        return {8 * at + bit for at, byte in enumerate(payload.take((count + 7) // 8)) for bit in range(8) if byte >> bit & 1}

    return payload.take(16), dict(payload.many(1 << 24, lambda: (payload.take(16), bits(payload.varint()))))


def split(path):
    """The names of a path; refuses what could lead out of the place it is restored to."""
    names = path.split(b'/') if path else []
    need(all(0 < len(name) <= 255 and name not in (b'.', b'..') and b'\0' not in name for name in names)
         and len(path) <= 65535 and len(names) <= 4096, f'the path {path[:300]!r} cannot be')
    return names


def read_pieces(source, ids):
    return source.many(MIB, lambda: (ids[source.varint()], source.varint(), source.varint()))


def read_page(page):
    path, ids = b'', page.ids()
    for _ in range(page.varint(131073)):
        path = path[:page.varint(len(path))] + page.string(65535)
        entry = Record(path=path, names=split(path), kind=page.uint(1), mode=page.varint(0o7777), uid=page.varint((1 << 32) - 2),
                       gid=page.varint((1 << 32) - 2), pieces=[], lists=[], extents=[])
        need(FOLDER <= entry.kind <= BLOCK and (path or entry.kind == FOLDER), f'there is no entry of kind {entry.kind}')
        seconds = page.varint()
        entry.time = (seconds >> 1 ^ -(seconds & 1)) * 10**9 + page.varint(10**9 - 1)
        entry.xattrs = page.many(4096, lambda: (page.string(255), page.string(65536)))
        if entry.kind == FILE:
            entry.size, entry.content, end, extents = page.varint((1 << 63) - 1), page.take(32), 0, page.varint(65537)
            for _ in range(extents - 1):
                start = end + page.varint()
                end = start + page.varint()
                entry.extents.append((start, end))
            entry.extents = entry.extents if extents or not entry.size else [(0, entry.size)]
            need(end <= entry.size, f'an extent of {path!r} lies behind its end')
            if page.uint(1):
                entry.lists = page.many(65536, lambda: ids[page.varint()])
            else:
                entry.pieces = read_pieces(page, ids)
        elif entry.kind in (SYMLINK, LINK):
            entry.target = page.string(65535)
        elif entry.kind in (CHARACTER, BLOCK):
            entry.target = page.varint(), page.varint()
        yield entry


class Archive:
    """One archive of a backup, as its manifest says."""

    def __init__(self, repo, backup, one):
        self.repo, self.label, self.refs = repo, f'{one["component"]}/{one["source"]}', one['refs']
        need(re.fullmatch('[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}', self.label), f'{self.label!r} cannot be')
        manifest = json.loads(repo.read(f'{backup}/{self.label}.json', one['manifest']))
        known(manifest['format'])
        self.domain, self.root = bytes.fromhex(manifest['domain']), bytes.fromhex(manifest['root'])

    def entries(self):
        """The entries in their order. A page that is lost is a finding, and the others follow."""
        table, before = Bytes(self.repo.blob(self.domain, self.root, TABLE)), None
        for first, page, _ in table.many(1 << 24, lambda: (table.string(65535), table.take(32), table.varint())):
            found = []
            with reading(f'{self.label}/{shown(first)} and all to the next page is lost', go_on=True):
                found = list(read_page(Bytes(self.repo.blob(self.domain, page, PAGE))))
            for entry in found:
                need(before is None or before < entry.names, f'{entry.path!r} is out of order')
                before = entry.names
                yield entry

    def pieces(self, entry):
        yield from entry.pieces
        for one in entry.lists:
            source = Bytes(self.repo.blob(self.domain, one, PIECES))
            yield from read_pieces(source, source.ids())
