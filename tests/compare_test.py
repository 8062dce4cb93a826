#!/usr/bin/env python3
"""compare.py must see every kind of difference: a comparison that cannot fail proves nothing."""
import os
import socket
import stat
import subprocess
import sys
import tempfile
import unittest

COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'compare.py')


def make(top):
    os.makedirs(f'{top}/folder')
    for name, data in (('a', b'same bytes'), ('folder/b', b'x' * 3_000_000)):
        with open(f'{top}/{name}', 'wb') as file:
            file.write(data)
    os.link(f'{top}/a', f'{top}/a-again')
    os.symlink('folder/b', f'{top}/link')
    with open(f'{top}/sparse', 'wb') as file:
        file.truncate(10 << 20)
    with open(os.path.join(os.fsencode(top), b'not-utf8-\xff'), 'wb'):
        pass
    for name in ('a', 'folder/b', 'link', 'sparse', 'folder', ''):
        os.utime(f'{top}/{name}', ns=(1, 1_700_000_000_123_456_789), follow_symlinks=False)
    os.utime(os.path.join(os.fsencode(top), b'not-utf8-\xff'), ns=(1, 5))
    os.utime(top, ns=(1, 1_700_000_000_000_000_001))


class Comparison(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.left, self.right = f'{self.folder.name}/left', f'{self.folder.name}/right'
        make(self.left)
        make(self.right)

    def tearDown(self):
        self.folder.cleanup()

    def compare(self, *options):
        command = [sys.executable, COMPARE, self.left, self.right, *options]
        return subprocess.run(command, capture_output=True, text=True)

    def assert_seen(self, *words):
        done = self.compare()
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        for word in words:
            self.assertIn(word, done.stdout)

    def keep_time(self, name, change):
        """Changes an entry without a trace in its modification time or its folder's."""
        path = f'{self.right}/{name}'
        before, folder = os.lstat(path), os.lstat(os.path.dirname(path))
        change(path)
        os.utime(path, ns=(1, before.st_mtime_ns), follow_symlinks=False)
        os.utime(os.path.dirname(path), ns=(1, folder.st_mtime_ns))

    def test_equal_folders_are_equal(self):
        done = self.compare()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_a_single_byte_is_seen(self):
        def flip(path):
            with open(path, 'r+b') as file:
                file.seek(2_500_000)
                file.write(b'y')
        self.keep_time('folder/b', flip)
        self.assert_seen('content, from byte 2500000 on')

    def test_a_nanosecond_is_seen(self):
        os.utime(f'{self.right}/a', ns=(1, 1_700_000_000_123_456_790))
        self.assert_seen('modification time')

    def test_a_mode_is_seen(self):
        self.keep_time('a', lambda path: os.chmod(path, 0o600))
        self.assert_seen("'a': mode")

    def test_a_link_target_is_seen(self):
        def retarget(path):
            os.unlink(path)
            os.symlink('folder/c', path)
        self.keep_time('link', retarget)
        self.assert_seen('link target')

    def test_a_broken_hard_link_is_seen(self):
        def unlink(path):
            os.unlink(path)
            with open(path, 'wb') as file:
                file.write(b'same bytes')
        self.keep_time('a-again', unlink)
        self.assert_seen("hard link of b'a' and of b'a-again'")

    def test_a_filled_hole_is_seen(self):
        def fill(path):
            with open(path, 'wb') as file:
                file.write(bytes(10 << 20))
        self.keep_time('sparse', fill)
        self.assert_seen('holes')

    def test_an_extended_attribute_is_seen(self):
        self.keep_time('a', lambda path: os.setxattr(path, 'user.note', b'x'))
        self.assert_seen('extended attributes')

    def test_a_hole_that_moved_is_seen(self):
        for side, at in ((self.left, 1 << 20), (self.right, 2 << 20)):
            with open(f'{side}/sparse', 'r+b') as file:
                file.seek(at)
                file.write(bytes(4096))
            os.utime(f'{side}/sparse', ns=(1, 1_700_000_000_123_456_789))
        self.assert_seen('holes')

    def test_an_owner_a_device_and_a_type_are_seen(self):
        if os.geteuid() != 0:
            self.skipTest('only root may')
        for side, minor in ((self.left, 1), (self.right, 2)):
            os.mknod(f'{side}/device', stat.S_IFCHR | 0o600, os.makedev(1, minor))
            os.mkfifo(f'{side}/special') if minor == 1 else os.mkdir(f'{side}/special')
        self.keep_time('a', lambda path: os.chown(path, 7, 8))
        self.assert_seen("'a': owner 0:0 and 7:8", "'device': device", "'special': type")

    def test_a_difference_deeper_than_a_path_may_be_long_is_seen(self):
        name = 'n' * 255
        for side in (self.left, self.right):
            at = os.open(side, os.O_RDONLY)
            for _ in range(20):
                os.mkdir(name, dir_fd=at)
                below = os.open(name, os.O_RDONLY, dir_fd=at)
                os.close(at)
                at = below
            with open(os.open('bottom', os.O_WRONLY | os.O_CREAT, dir_fd=at), 'w') as file:
                file.write(os.path.basename(side))
            os.close(at)
        self.assert_seen("/bottom': size")

    def test_sockets_may_be_left_out_on_the_right_and_nowhere_else(self):
        server = socket.socket(socket.AF_UNIX)
        server.bind(f'{self.left}/socket')
        server.close()
        self.assert_seen('is only on the left', "'.': modification time")
        self.assertEqual(self.compare('--sockets-left-out').returncode, 1)
        self.assertEqual(self.compare('--sockets-left-out', '--below').returncode, 0)

    def test_a_missing_and_a_new_name_are_seen(self):
        os.remove(os.path.join(os.fsencode(self.right), b'not-utf8-\xff'))
        with open(f'{self.right}/new', 'wb'):
            pass
        self.assert_seen('is only on the left', 'is only on the right')


if __name__ == '__main__':
    unittest.main()
