#!/usr/bin/env python3
"""Compare two folders independently of the programs under test.

usage: compare.py LEFT RIGHT [--ignore PATTERN …]

Looks at names (as bytes), types, permissions, owners, nanosecond modification times, link targets,
groups of hard links, extended attributes, device numbers, every byte of every file, and roughly at the
room that sparse files take. Prints each difference; exit code 0 if there is none, 1 if there are, 2 on
wrong usage.
"""
import argparse
import fnmatch
import os
import stat
import sys

PIECE = 1 << 20
SHOWN = 100


def walk(top, ignored):
    """All entries below `top` by their relative path, in bytes; `.` is the top itself."""
    found, open_folders = {b'.': os.lstat(top)}, [b'']
    while open_folders:
        folder = open_folders.pop()
        for name in os.listdir(os.path.join(top, folder)):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored):
                continue
            path = os.path.join(folder, name)
            found[path] = os.lstat(os.path.join(top, path))
            if stat.S_ISDIR(found[path].st_mode):
                open_folders.append(path)
    return found


def hard_links(entries):
    """For each path with several names, the first of its names."""
    groups = {}
    for path in sorted(entries):
        status = entries[path]
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            groups.setdefault((status.st_dev, status.st_ino), []).append(path)
    return {path: names[0] for names in groups.values() for path in names if len(names) > 1}


def attributes(path):
    return {name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)}


def first_difference(left, right):
    """Where two files differ, or None."""
    with open(left, 'rb') as one, open(right, 'rb') as other:
        at = 0
        while True:
            a, b = one.read(PIECE), other.read(PIECE)
            if a != b:
                return at + next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            if not a:
                return None
            at += len(a)


def is_sparse(status):
    return status.st_size - status.st_blocks * 512 > 64 * 1024


def differences(left, right, path, one, other):
    """What differs between two entries of the same path."""
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        yield f'type {stat.S_IFMT(one.st_mode):o} and {stat.S_IFMT(other.st_mode):o}'
        return
    kind = stat.S_IFMT(one.st_mode)
    a, b = os.path.join(left, path), os.path.join(right, path)
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
            at = first_difference(a, b)
            if at is not None:
                yield f'content, from byte {at} on'
        if is_sparse(one) and not is_sparse(other):
            yield f'holes: {one.st_blocks} and {other.st_blocks} blocks'


def compare(left, right, ignored):
    one, other = walk(left, ignored), walk(right, ignored)
    links, other_links = hard_links(one), hard_links(other)
    for path in sorted(one.keys() | other.keys()):
        if path not in other:
            yield path, 'is only on the left'
        elif path not in one:
            yield path, 'is only on the right'
        else:
            for difference in differences(left, right, path, one[path], other[path]):
                yield path, difference
            if links.get(path) != other_links.get(path):
                yield path, f'hard link of {links.get(path)!r} and of {other_links.get(path)!r}'


def main():
    parser = argparse.ArgumentParser(description='Compare two folders independently.')
    parser.add_argument('left')
    parser.add_argument('right')
    parser.add_argument('--ignore', nargs='*', default=[], help='names that are left out, wherever they are; * and ? stand for anything')
    wanted = parser.parse_args()
    for folder in (wanted.left, wanted.right):
        if not os.path.isdir(folder):
            parser.error(f'{folder} is no folder')
    left, right = os.fsencode(wanted.left), os.fsencode(wanted.right)
    ignored = {os.fsencode(name) for name in wanted.ignore}
    count = 0
    for path, difference in compare(left, right, ignored):
        count += 1
        if count <= SHOWN:
            print(f'{os.fsdecode(path)!r}: {difference}')
    entries = len(walk(left, ignored))
    print(f'{entries} entries on the left, {count} differences')
    return 1 if count else 0


if __name__ == '__main__':
    sys.exit(main())
