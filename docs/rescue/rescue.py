#!/usr/bin/env python3
"""rescue.py: reads a NeuraShield Backup repository without any part of NeuraShield Backup.

Written from docs/FORMAT.md alone. It needs Python 3.11, rescue_format.py beside it, the repository's folder
(or a copy of the bucket) and the recovery key, and it writes nothing but what it restores.

  pip install cryptography==50.0.2 zstandard==0.25.0 blake3==1.0.11        (newer ones will do)

  rescue.py list    REPOSITORY
  rescue.py check   REPOSITORY [--key FILE]          without the key: everything but what is sealed
  rescue.py restore REPOSITORY BACKUP TARGET [WHAT …] [--key FILE] [--no-privileges]

BACKUP is a name from the list, or `latest`. TARGET is new or empty; an archive is restored into
TARGET/<component>/<source>. WHAT is <component>, <component>/<source> or <component>/<source>/<path>.
FILE holds the recovery key or a passphrase, or is a key file; a restore without it asks for the key.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 restored but not everything, 4 damage found.
"""
import argparse
import getpass
import hashlib
import os
import stat
import struct
import sys

from blake3 import blake3
from rescue_format import (ABSENT, BROKEN, CHARACTER, DATA, FIFO, FILE, FINDINGS, FOLDER, LINK, SOCKET, SYMLINK,
                           Archive, Refused, Repository, known, need, read_refs, reading, shown, split)

BACKUP = r'\d{8}_\d{6}'


class Restore:
    """Writes one archive into the folder that is the working directory, and goes from folder to folder with it.

    Nothing is ever written through a link or outside of it: names are checked, an entry lies in a folder made
    here, and each folder is closed to others (0700) until all that is in it is done."""

    def __init__(self, archive, privileges):
        self.archive, self.privileges, self.folders = archive, privileges, []
        self.root, self.made = os.open('.', os.O_DIRECTORY), set()

    def leave(self, names):
        """Ends the folders that an entry with these names does not lie in; None ends them all."""
        while self.folders and (names is None or self.folders[-1].names != names[:len(self.folders[-1].names)]):
            entry = self.folders.pop()
            if entry.names:
                os.chdir('..')
            with reading(self.shown(entry), go_on=True):
                self.attributes(entry.names[-1] if entry.names else b'.', entry)

    def shown(self, entry):
        return f'{self.archive.label}/{shown(entry.path)}'

    def write(self, entry):
        self.leave(entry.names)
        parent, _, name = entry.path.rpartition(b'/')
        need(not entry.names or self.folders and self.folders[-1].path == parent, 'it lies in no folder that came before it')
        if entry.kind == FOLDER:
            if entry.names:
                os.mkdir(name, 0o700)
                os.chdir(name)
            return self.folders.append(entry)
        if entry.kind == LINK:
            need(entry.target in self.made, f'its first name, {shown(entry.target)}, is not among what was restored')
            self.made.add(entry.path)
            return os.link(b'/proc/self/fd/%d/%s' % (self.root, entry.target), name, follow_symlinks=False)
        if entry.kind == FILE:
            self.file(name, entry)
        elif entry.kind == SYMLINK:
            os.symlink(entry.target, name)
        elif entry.kind == FIFO:
            os.mkfifo(name, 0o600)
        elif entry.kind == SOCKET:
            return print(f'{self.shown(entry)}: a socket is left to the program that serves it', file=sys.stderr)
        else:
            need(self.privileges, 'a device is left out with --no-privileges')
            os.mknod(name, 0o600 | (stat.S_IFCHR if entry.kind == CHARACTER else stat.S_IFBLK), os.makedev(*entry.target))
        self.made.add(entry.path)
        self.attributes(name, entry)

    def file(self, name, entry):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.truncate(file, entry.size)
            pieces, left = self.archive.pieces(entry), b''
            content = blake3(b'content\0', key=self.archive.repo.id_key(self.archive.domain))
            for start, end in entry.extents:
                at = start
                while at < end:
                    if not left:
                        blob, begin, length = next(pieces, (None, 0, 0))
                        need(length, 'its pieces end before its data does')
                        left = memoryview(self.archive.repo.blob(self.archive.domain, blob, DATA))[begin:begin + length]
                        need(len(left) == length, 'a piece lies outside of its blob')
                    written = os.pwrite(file, left[:end - at], at)
                    content.update(left[:written])
                    left, at = left[written:], at + written
                content.update(struct.pack('<QQ', start, end - start))
            need(not left and next(pieces, None) is None, 'it has more pieces than data')
            need(content.update(struct.pack('<Q', entry.size)).digest() == entry.content, 'its content is not what its id says')
        except BROKEN:
            os.unlink(name)  # no file is better than a wrong one
            raise
        finally:
            os.close(file)

    def attributes(self, name, entry):
        if os.geteuid() == 0:
            os.chown(name, entry.uid, entry.gid, follow_symlinks=False)
        for attribute, value in entry.xattrs:
            with reading(f'{self.shown(entry)} is without its attribute {shown(attribute)}', go_on=True):
                need(self.privileges or not attribute.startswith((b'security.', b'trusted.')), 'left out with --no-privileges')
                os.setxattr(name, attribute, value, follow_symlinks=False)
        os.utime(name, ns=(entry.time, entry.time), follow_symlinks=False)
        if entry.kind != SYMLINK:
            os.chmod(name, entry.mode & (0o7777 if self.privileges or entry.kind == FOLDER else 0o1777))


def backups(repo):
    """The signed backup.json of every committed backup, in the order of their sequence; damaged ones are findings."""
    found = []
    for name in repo.list('', BACKUP):
        if os.path.lexists(os.path.join(repo.root, name, 'backup.json')):
            with reading(f'backup {name}', go_on=True):
                backup = repo.signed(f'{name}/backup.json')
                known(backup['format'])
                need((backup['repository'], backup['name']) == (repo.id.hex(), name), 'it is of another repository or name')
                found.append(backup)
    return sorted(found, key=lambda backup: backup['sequence'])


def chain(repo):
    """The chain's lines by sequence, each with the SHA-256 of its file."""
    found = {}
    for name in repo.list('repository/chain', r'\d{20}\.json'):
        with reading(f'chain/{name}', go_on=True):
            line = repo.signed(f'repository/chain/{name}')
            need(line['sequence'] == int(name[:20]), 'it is the line of another sequence')
            found[line['sequence']] = line, hashlib.sha256(repo.read(f'repository/chain/{name}')).hexdigest()
    return found


def show_list(repo):
    there = {backup['sequence']: backup for backup in backups(repo)}
    print(f'{"sequence":>8}  {"backup":15}  {"outcome":10}  {"bytes":>15}  archives')
    for sequence, (line, _) in sorted(chain(repo).items()):
        if sequence not in there:
            retired = repo.list('repository/chain', rf'{sequence:020}\.pruned\.json')
            print(f'{sequence:8}  {line["name"]:15}  {"retired" if retired else "lost"}')
    for sequence, backup in there.items():
        archives = ', '.join(f'{one["component"]}/{one["source"]}' for one in backup['archives'])
        size = sum(one['counts']['bytes'] for one in backup['archives'])
        print(f'{sequence:8}  {backup["name"]:15}  {backup["outcome"]:10}  {size:15}  {archives}')
    return 4 if FINDINGS else 0


def check_packs(repo):
    """Every pack by its name, and with the key every blob."""
    count = 0
    for pack, segments in repo.packs.items():
        with reading(f'pack {pack}', go_on=True), open(repo.pack_path(pack), 'rb') as file:
            whole = hashlib.file_digest(file, 'sha256').hexdigest() == pack
            places = [(segment, ordinal) for segment in segments for ordinal, row in enumerate(segment.rows) if not row[3] & ABSENT]
            for place in places:
                count += 1
                if repo.private:
                    with reading('damage', go_on=True):
                        repo.bad.add(place)
                        repo.open_blob(*place)
                        repo.bad.discard(place)
            need(whole, 'its SHA-256 is not its name')
    return count


def archives_of(repo, backup):
    """The archives of a backup that hold something; what cannot be read of them is a finding."""
    for one in backup['archives']:
        with reading(f'{backup["name"]}/{one["component"]}/{one["source"]}', go_on=True):
            if one['refs'] is not None:
                yield Archive(repo, backup['name'], one)


def check_backup(repo, backup):
    """SHA256SUMS, manifests, refs; with the key every entry: which of them are damaged is said by name."""
    name, sound = backup['name'], repo.sound()
    with reading(f'{name}/SHA256SUMS', go_on=True):
        for line in repo.read(f'{name}/SHA256SUMS').decode().splitlines():
            checksum, path = line.split('  ', 1)
            with reading(f'{name}/{path}', go_on=True):
                need(not path.startswith('/') and '..' not in path.split('/'), 'it lies outside of the backup')
                repo.read(f'{name}/{path}', checksum, most=1 << 29)
    for archive in archives_of(repo, backup):
        label = f'{name}/{archive.label}'
        with reading(f'{label}.refs', go_on=True):
            domain, refs = read_refs(repo.read(f'{name}/{archive.label}.refs', archive.refs, most=1 << 29))
            missing = sum(len(ordinals - sound.get((domain, segment), set())) for segment, ordinals in refs.items())
            need(not missing, f'{missing} of the blobs that it needs are lost or damaged')
        with reading(label, go_on=True):
            for entry in archive.entries() if repo.private else ():
                with reading(f'{label}/{shown(entry.path)} is damaged', go_on=True):
                    lost = sum(blob not in repo.blobs(archive.domain) for blob, _, _ in archive.pieces(entry))
                    need(not lost, f'{lost} of its pieces are lost')


def check(repo):
    blobs, found, before = check_packs(repo), backups(repo), None
    lines = chain(repo)
    for sequence, (line, checksum) in sorted(lines.items()):
        with reading(f'chain/{sequence:020}.json', go_on=True):
            need(line['previous'] == before, 'the line before it is missing or another one')
        before = checksum
    for backup in found:
        with reading(f'backup {backup["name"]}', go_on=True):
            line = lines.get(backup['sequence'], (None, None))[0]
            checksum = hashlib.sha256(repo.read(f'{backup["name"]}/backup.json')).hexdigest()
            need(line or backup is found[-1], 'it is not in the chain')
            need(not line or (line['name'], line['backup']) == (backup['name'], checksum), 'the chain knows it as another')
        check_backup(repo, backup)
    opened = 'opened' if repo.private else 'counted (the key would open them)'
    print(f'{len(found)} backups, {len(repo.packs)} packs, {blobs} blobs {opened}: {len(FINDINGS) or "no"} findings')
    return 4 if FINDINGS else 0


def wanted(label, selection):
    """What is wanted of an archive: the names of each path; no names stand for all of it."""
    if not selection:
        return {'': []}
    inside = {what: what.removeprefix(label).strip('/') for what in selection if what.startswith(label + '/')}
    found = {what: [] for what in selection if f'{label}/'.startswith(what.rstrip('/') + '/')}
    return found | {what: split(os.fsencode(path)) for what, path in inside.items()}


def restore(repo, name, target, selection, privileges):
    found = {backup['name']: backup for backup in backups(repo)}
    name = [*found][-1] if found and name == 'latest' else name
    need(name in found, f'there is no backup {name}: `list` shows which there are')
    os.makedirs(target, 0o700, exist_ok=True)
    need(not os.listdir(target), f'{target} is not empty')
    need(not os.stat(target).st_mode & 0o022, f'{target} can be written to by others: take a folder of your own')
    target, count, missing = os.path.realpath(target), 0, set(selection)
    for archive in archives_of(repo, found[name]):
        paths = wanted(archive.label, selection)
        if not paths:
            continue
        os.makedirs(os.path.join(target, archive.label), 0o700)
        os.chdir(os.path.join(target, archive.label))
        writer = Restore(archive, privileges)
        with reading(archive.label, go_on=True):
            for entry in archive.entries():
                missing -= {what for what, path in paths.items() if path == entry.names}
                if any(entry.names[:len(path)] == path or entry.kind == FOLDER and path[:len(entry.names)] == entry.names
                       for path in paths.values()):
                    with reading(writer.shown(entry), go_on=True):
                        writer.write(entry)
                        count += 1
        writer.leave(None)
    with reading(name, go_on=True):
        need(not missing, f'it holds nothing like {", ".join(sorted(missing))}')
    os.sync()
    print(f'{count} entries restored from {name} to {target}; {len(FINDINGS) or "no"} findings')
    return 3 if FINDINGS else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=['list', 'check', 'restore'])
    parser.add_argument('repository')
    parser.add_argument('rest', nargs='*', metavar='BACKUP TARGET WHAT')
    parser.add_argument('--key', metavar='FILE')
    parser.add_argument('--no-privileges', action='store_true')
    given = parser.parse_intermixed_args()
    if (len(given.rest) < 2) if given.command == 'restore' else given.rest:
        parser.error('BACKUP and TARGET are needed for a restore, and for nothing else')
    try:
        repo = Repository(os.path.realpath(given.repository))
        if given.key:
            with open(given.key, 'rb') as file:
                repo.unlock(file.read(65536))
        elif given.command == 'restore':
            repo.unlock(getpass.getpass('Recovery key: ').encode())
        if given.command == 'list':
            return show_list(repo)
        if given.command == 'check':
            return check(repo)
        return restore(repo, *given.rest[:2], given.rest[2:], not given.no_privileges)
    except (*BROKEN, KeyboardInterrupt) as error:
        print(f'rescue.py: {error if isinstance(error, (Refused, OSError)) else repr(error)}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    os.umask(0o077)
    sys.exit(main())
