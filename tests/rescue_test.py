#!/usr/bin/env python3
"""Tests of docs/rescue: what hostile or foreign bytes would do to it. Run it by tests/rescue-python.

Whether it restores real repositories is tested on the built programs: tests/tests/rescue.rs.
"""
import contextlib
import io
import json
import os
import struct
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '../docs/rescue'))

import rescue  # noqa: E402
from blake3 import blake3  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: E402


def varint(number):
    text = b''
    while number > 127:
        text, number = text + bytes([number & 127 | 128]), number >> 7
    return text + bytes([number])


def string(text):
    return varint(len(text)) + text


def entry(path, kind, rest=b'', mode=0o644, xattrs=b'\0'):
    return b'\0' + string(path) + bytes([kind]) + varint(mode) + varint(os.getuid()) + varint(os.getgid()) + b'\0\0' + xattrs + rest


def page(*entries, ids=()):
    return varint(len(ids)) + b''.join(ids) + varint(len(entries)) + b''.join(entries)


ROOT = entry(b'', rescue.FOLDER, mode=0o755)
ID_KEY = bytes(32)


class Blobs:
    """A repository of blobs that are just given."""

    def __init__(self):
        self.given = {}

    def add(self, data):
        name = blake3(data).digest()
        self.given[name] = data
        return name

    def blob(self, domain, blob, kind):
        rescue.need(blob in self.given, 'there is no such blob')
        return self.given[blob]

    def id_key(self, domain):
        return ID_KEY


def content_of(data):
    extent = data + struct.pack('<QQ', 0, len(data)) if data else b''
    return rescue.keyed(ID_KEY, b'content\0', extent, struct.pack('<Q', len(data)))


def file(path, data, pieces, content=None, mode=0o644):
    """A dense file; `pieces` are (blob of the page, offset, length)."""
    listed = varint(len(pieces)) + b''.join(varint(number) for piece in pieces for number in piece)
    return entry(path, rescue.FILE, varint(len(data)) + (content or content_of(data)) + b'\0' + b'\0' + listed, mode)


class Hostile(unittest.TestCase):
    """An archive that somebody made who has the keys and wishes ill."""

    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        self.outside, self.target = (os.path.join(place.name, name) for name in ('outside', 'target'))
        for folder in (self.outside, self.target):
            os.mkdir(folder, 0o700)
        with open(os.path.join(self.outside, 'secret'), 'w', encoding='ascii') as secret:
            secret.write('secret')
        self.blobs = Blobs()
        self.before = self.state_of_outside()
        rescue.FINDINGS.clear()

    def state_of_outside(self):
        found = [os.lstat(path) for path in (self.outside, os.path.join(self.outside, 'secret'))]
        return os.listdir(self.outside), [(one.st_mode, one.st_nlink, one.st_mtime_ns, one.st_uid) for one in found]

    def restore(self, *pages):
        """What restoring these pages says."""
        table = b''.join(string(b'') + (one if len(one) == 32 else self.blobs.add(one)) + b'\1' for one in pages)
        archive = object.__new__(rescue.Archive)
        archive.repo, archive.label, archive.domain = self.blobs, 'a/b', bytes(16)
        archive.root = self.blobs.add(varint(len(pages)) + table)
        os.chdir(self.target)
        said = io.StringIO()
        with contextlib.redirect_stderr(said), rescue.noting('archive'):
            archive.restore(lambda _: True)
        self.assertEqual(self.before, self.state_of_outside(), said.getvalue())
        return said.getvalue()

    def test_names_that_lead_elsewhere_are_refused(self):
        for path in (b'..', b'.', b'a/../b', b'/etc', b'a//b', b'a/', b'a\0b', b'n' * 256, b'a/' * 5000 + b'a'):
            said = self.restore(page(ROOT, entry(path, rescue.FIFO)))
            self.assertIn('cannot be', said, path)
            self.assertEqual([], os.listdir(self.target), path)

    def test_nothing_is_written_through_a_link(self):
        link = entry(b'link', rescue.SYMLINK, string(os.fsencode(self.outside)))
        said = self.restore(page(ROOT, link, entry(b'link/new', rescue.FIFO), entry(b'link/sub', rescue.FOLDER)))
        self.assertEqual(2, said.count('it lies in no folder'))
        self.assertEqual(['link'], os.listdir(self.target))

    def test_a_hard_link_names_only_what_was_restored(self):
        link = entry(b'link', rescue.SYMLINK, string(os.fsencode(self.outside)))
        away = [b'link/secret', b'../outside/secret', os.fsencode(self.outside) + b'/secret', b'', b'later', b'm0']
        links = [entry(b'm%d' % n, rescue.LINK, string(target)) for n, target in enumerate(away)]
        said = self.restore(page(ROOT, link, *links))
        self.assertEqual(len(away), said.count('was not restored'), said)
        self.assertEqual(['link'], os.listdir(self.target))

    def test_a_path_twice_or_out_of_order_ends_the_archive(self):
        for first, second in ((b'm', b'm'), (b'n', b'a'), (b'o/p', b'o')):
            said = self.restore(page(ROOT, entry(first, rescue.FIFO), entry(second, rescue.FIFO)))
            self.assertIn('out of order', said)
        self.assertIn('kind', self.restore(page(entry(b'', rescue.SYMLINK, string(b'/')))))
        self.assertIn('no folder', self.restore(page(entry(b'x', rescue.FOLDER))))

    def test_a_wrong_byte_never_stays(self):
        data = self.blobs.add(b'0123456789')
        wrong = [
            file(b'a', b'012345678x', [(0, 0, 10)]),
            file(b'b', b'0123456789', [(0, 0, 9)]),
            file(b'c', b'0123456789', [(0, 0, 10), (0, 0, 1)]),
            file(b'd', b'0123456789', [(0, 5, 10)]),
            file(b'e', b'0123456789', [(0, 0, 10)], content=bytes(32)),
        ]
        right = file(b'z', b'0123456789', [(0, 0, 4), (0, 4, 6)])
        said = self.restore(page(ROOT, *wrong, right, ids=[data]))
        self.assertEqual(len(wrong), len(rescue.FINDINGS), said)
        self.assertEqual(['z'], os.listdir(self.target))

    def test_a_lost_page_costs_its_entries_and_no_others(self):
        said = self.restore(page(ROOT, entry(b'a', rescue.FIFO)), bytes(32), page(entry(b'z', rescue.FIFO)))
        self.assertIn('what follows to the next page', said)
        self.assertEqual(['a', 'z'], sorted(os.listdir(self.target)))

    def test_counts_beyond_the_limits_cost_nothing(self):
        for data in (varint(1 << 60), b'\0' + varint(1 << 40), b'\0\1' + varint(1 << 50), b'\xff' * 12, b'', page(ROOT)[:-1]):
            with self.assertRaises((ValueError, LookupError)):
                list(rescue.read_page(rescue.Bytes(data)))


class Repositories(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.root = place.name
        os.mkdir(os.path.join(self.root, 'repository'))

    def config(self, **changes):
        """A repository whose signed configuration is as a later version may write it."""
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw().hex()
        content = {'format': rescue.VERSION, 'required_features': [], 'id': '00' * 16, 'signing_key': public, 'sealing_keys': []}
        signed = (json.dumps(content | changes) + '\n').encode()
        with open(os.path.join(self.root, 'repository/config.json'), 'wb') as file:
            file.write(signed + json.dumps({'ed25519': public, 'signature': key.sign(signed).hex()}).encode() + b'\n')
        return rescue.Repository(self.root)

    def test_a_feature_or_version_that_is_not_known_is_refused_by_name(self):
        self.config()
        for changes, named in (({'required_features': ['time travel']}, 'time travel'), ({'format': 99}, '99'),
                               ({'signing_key': '11' * 32}, 'signed')):
            with self.assertRaisesRegex(ValueError, named):
                self.config(**changes)

    def test_a_typing_error_in_the_recovery_key_is_told_from_a_foreign_key(self):
        secret = bytes(range(32))
        number = int.from_bytes(secret + rescue.hashlib.sha256(secret).digest()[:3], 'big')
        digits = ''.join('0123456789ABCDEFGHJKMNPQRSTVWXYZ'[number >> 5 * at & 31] for at in range(55, -1, -1))
        key = 'NSRK-' + '-'.join(digits[at:at + 4] for at in range(0, 56, 4))
        for text in (key, key.lower(), key.replace('-', ' '), f'{key}\n', key.replace('0', 'O').replace('1', 'l')):
            self.assertEqual(secret, rescue.recovery_secret(text), text)
        with self.assertRaisesRegex(ValueError, 'no recovery key'):
            rescue.recovery_secret('correct horse battery staple')
        with self.assertRaisesRegex(ValueError, 'typing error'):
            rescue.recovery_secret(key[:-1] + ('A' if key[-1] != 'A' else 'B'))

    def test_a_target_that_is_not_empty_or_open_to_others_is_refused(self):
        repo = self.config()
        backup = {'name': '20260101_000000', 'sequence': 1, 'archives': []}
        target = os.path.join(self.root, 'target')
        os.mkdir(target)
        original, rescue.backups = rescue.backups, lambda _: {1: backup}
        self.addCleanup(setattr, rescue, 'backups', original)
        for mode, named in ((0o777, 'written to by others'), (0o700, 'not empty')):
            os.chmod(target, mode)
            with self.assertRaisesRegex(ValueError, named):
                rescue.restore(repo, '20260101_000000', target, [])
            open(os.path.join(target, 'something'), 'w', encoding='ascii').close()


class Sealing(unittest.TestCase):
    def test_hpke_opens_what_another_program_sealed(self):
        """The library knows HPKE without associated data; both must agree where there is none."""
        from cryptography.hazmat.primitives import hpke
        private = X25519PrivateKey.generate()
        suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
        sealed = suite.encrypt(b'the key', private.public_key(), info=rescue.HPKE_INFO)
        self.assertEqual(b'the key', rescue.hpke_open(private, sealed[:32], b'', sealed[32:]))


if __name__ == '__main__':
    unittest.main()
