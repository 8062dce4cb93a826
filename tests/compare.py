#!/usr/bin/env python3
"""Compare two folders independently of the programs under test.

usage: compare.py LEFT RIGHT [--ignore PATTERN …] [--sockets-left-out] [--below]

Looks at names (as bytes), types, permissions, owners, nanosecond modification times, link targets,
groups of hard links, extended attributes (ACLs and capabilities are among them), device numbers, where a
file has data and where it has holes, and every byte of the data. Walks by the handles of folders, both
sides at a time: trees may be deeper than a path may be long, and a folder may hold a million entries.
Prints each difference; exit code 0 if there is none, 1 if there are, 2 on wrong usage.
"""
import argparse
import errno
import fnmatch
import os
import stat
import sys

PIECE = 1 << 20
SHOWN = 100
OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Side:
    """One of the two trees."""

    def __init__(self, ignored, sockets):
        self.ignored, self.sockets = ignored, sockets
        self.first_names = {}

    def names(self, folder):
        names = os.listdir(folder)
        found = {os.fsencode(name) for name in names}
        if self.ignored:
            found = {name for name in found
                     if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.ignored)}
        if not self.sockets:
            found = {name for name in found if not stat.S_ISSOCK(os.lstat(at(folder, name)).st_mode)}
        return found

    def first_name(self, status, path):
        """The first name of an entry that has several."""
        if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
            return path
        return self.first_names.setdefault((status.st_dev, status.st_ino), path)


def at(folder, name):
    """A path to a name in an open folder that is short however deep the folder lies."""
    return b'/proc/self/fd/%d/%s' % (folder, name)


def attributes(path):
    return {name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)}


def data_extents(file, size):
    """Where a file has data."""
    found, position = [], 0
    while position < size:
        try:
            start = os.lseek(file, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        position = os.lseek(file, start, os.SEEK_HOLE)
        found.append((start, position))
    return found


def first_difference(left, right, start, end):
    """Where two files differ between two offsets, or None."""
    while start < end:
        a, b = (os.pread(file, min(PIECE, end - start), start) for file in (left, right))
        if a != b:
            return start + next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        if not a:
            return None
        start += len(a)
    return None


def content_differences(left, right, size):
    files = [os.open(path, os.O_RDONLY | os.O_NOFOLLOW) for path in (left, right)]
    try:
        maps = [data_extents(file, size) for file in files]
        for start, end in sorted(set(maps[0]) | set(maps[1])):
            where = first_difference(*files, start, end)
            if where is not None:
                yield f'content, from byte {where} on'
                break
        if maps[0] != maps[1]:
            yield f'holes: data in {maps[0][:4]} and in {maps[1][:4]}'
    finally:
        for file in files:
            os.close(file)


def differences(a, b, one, other):
    """What differs between two entries: paths to them, and their status."""
    kind = stat.S_IFMT(one.st_mode)
    if kind != stat.S_IFMT(other.st_mode):
        yield f'type {kind:o} and {stat.S_IFMT(other.st_mode):o}'
        return
    if kind != stat.S_IFLNK and one.st_mode != other.st_mode:
        yield f'mode {stat.S_IMODE(one.st_mode):o} and {stat.S_IMODE(other.st_mode):o}'
    if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid):
        yield f'owner {one.st_uid}:{one.st_gid} and {other.st_uid}:{other.st_gid}'
    if one.st_mtime_ns != other.st_mtime_ns:
        yield f'modification time {one.st_mtime_ns} and {other.st_mtime_ns}'
    if attributes(a) != attributes(b):
        yield f'extended attributes {attributes(a)} and {attributes(b)}'
    if kind == stat.S_IFLNK and os.readlink(a) != os.readlink(b):
        yield f'link target {os.readlink(a)!r} and {os.readlink(b)!r}'
    if kind in (stat.S_IFCHR, stat.S_IFBLK) and one.st_rdev != other.st_rdev:
        yield f'device {one.st_rdev} and {other.st_rdev}'
    if kind == stat.S_IFREG:
        if one.st_size != other.st_size:
            yield f'size {one.st_size} and {other.st_size}'
        else:
            yield from content_differences(a, b, one.st_size)


class Pair:
    """The same folder on both sides, open, with the names that are still to be looked at."""

    def __init__(self, path, left, right, sides):
        self.path, self.left, self.right = path, left, right
        here, there = (side.names(folder) for side, folder in zip(sides, (left, right)))
        self.both = sorted(here & there, reverse=True)
        self.alone = [(name, 'left') for name in here - there] + [(name, 'right') for name in there - here]

    def close(self):
        os.close(self.left)
        os.close(self.right)


def compare(left, right, sides, counts, below):
    """The differences, each with the path of its entry."""
    if not below:
        for difference in differences(left, right, os.lstat(left), os.lstat(right)):
            yield b'.', difference
    counts['entries'] += 1
    open_pairs = [Pair(b'', os.open(left, OPEN), os.open(right, OPEN), sides)]
    while open_pairs:
        pair = open_pairs[-1]
        for name, side in sorted(pair.alone):
            yield os.path.join(pair.path, name), f'is only on the {side}'
        counts['entries'] += sum(side == 'left' for _, side in pair.alone)
        pair.alone = []
        if not pair.both:
            open_pairs.pop().close()
            continue
        name = pair.both.pop()
        path, a, b = os.path.join(pair.path, name), at(pair.left, name), at(pair.right, name)
        one, other = os.lstat(a), os.lstat(b)
        counts['entries'] += 1
        for difference in differences(a, b, one, other):
            yield path, difference
        first, other_first = sides[0].first_name(one, path), sides[1].first_name(other, path)
        if first != other_first:
            yield path, f'hard link of {first!r} and of {other_first!r}'
        if stat.S_ISDIR(one.st_mode) and stat.S_ISDIR(other.st_mode):
            handles = (os.open(name, OPEN, dir_fd=folder) for folder in (pair.left, pair.right))
            open_pairs.append(Pair(path, *handles, sides))


def main():
    parser = argparse.ArgumentParser(description='Compare two folders independently.')
    parser.add_argument('left')
    parser.add_argument('right')
    parser.add_argument('--ignore', nargs='*', default=[], help='names that are left out, wherever they are; * and ? stand for anything')
    parser.add_argument('--below', action='store_true', help='only what is in the folders, not their own attributes')
    parser.add_argument('--sockets-left-out', action='store_true', help='the right must have none of the sockets on the left')
    wanted = parser.parse_args()
    for folder in (wanted.left, wanted.right):
        if not os.path.isdir(folder):
            parser.error(f'{folder} is no folder')
    ignored = {os.fsencode(name) for name in wanted.ignore}
    sides = Side(ignored, not wanted.sockets_left_out), Side(ignored, True)
    count, counts = 0, {'entries': 0}
    for path, difference in compare(os.fsencode(wanted.left), os.fsencode(wanted.right), sides, counts, wanted.below):
        count += 1
        if count <= SHOWN:
            print(f'{os.fsdecode(path)!r}: {difference}')
    print(f'{counts["entries"]} entries on the left, {count} differences')
    return 1 if count else 0


if __name__ == '__main__':
    sys.exit(main())
