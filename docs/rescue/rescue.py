#!/usr/bin/env python3
"""rescue.py: reads a NeuraShield Backup repository without any part of NeuraShield Backup.

Written from docs/FORMAT.md alone. It needs Python 3.11, the repository's folder (or a copy of the bucket) and
a file with the recovery key; it writes nothing but what it restores.

  pip install cryptography==50.0.2 zstandard==0.25.0 blake3==1.0.11        (newer ones will do)
  rescue.py list    REPOSITORY
  rescue.py check   REPOSITORY [KEYFILE]      without the key: everything but what is sealed
  rescue.py restore REPOSITORY KEYFILE BACKUP TARGET [WHAT …]
BACKUP is a name from the list, or `latest`: of each component the newest that holds it complete. TARGET is new or empty; an archive is restored into
TARGET/<component>/<source>. WHAT is <component>, <component>/<source> or <component>/<source>/<path>.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 restored but not everything, 4 damage found.
"""
import contextlib, functools, hashlib, hmac, itertools, json, os, pathlib, re, stat, struct, sys, types  # noqa: E401

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION, FEATURES, HPKE_INFO = 1, set(), b'neurashield segment v1'
(DATA, PAGE, TABLE, PIECES), ABSENT, MIB = range(1, 5), 1, 1 << 20
FOLDER, FILE, SYMLINK, LINK, FIFO, SOCKET, CHARACTER, BLOCK = range(1, 9)
HEADER, ROW = struct.Struct('<8sHBBI16s16s16s32s48sIIQ'), struct.Struct('<32sBBHII')
SOURCE = '[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}'
ABANDONED, OTHER, FINDINGS = b'{"abandoned":true}\n', f'this reader knows format version {VERSION} only, and not', []

def need(condition, text):
    if not condition:
        raise ValueError(text)

@contextlib.contextmanager
def noting(what):
    """Whatever bytes that are not what they should be end in is kept as a finding, and the work goes on."""
    try:
        yield
    except Exception as error:
        FINDINGS.append(what)
        print(f'{what}: {error if str(error) else "it is damaged or forged"}', file=sys.stderr)

def keyed(key, *parts): return blake3(b''.join(parts), key=key).digest()

class Bytes:
    def __init__(self, data): self.data, self.at = data, 0

    def take(self, length=32):
        self.at += length
        need(self.at <= len(self.data), 'it ends too early')
        return self.data[self.at - length:self.at]

    def varint(self, most=(1 << 64) - 1):
        value = shift = 0
        while (byte := self.take(1)[0]) > 127 and shift < 63:
            value, shift = value | (byte & 127) << shift, shift + 7
        need(value | byte << shift <= most, 'a number is too large')
        return value | byte << shift

    def many(self, most, read): return [read() for _ in range(self.varint(most))]

    def pieces(self, ids): return self.many(MIB, lambda: (ids[self.varint()], self.varint(), self.varint()))

def hpke_open(private, encapsulated, associated, sealed):
    """RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, the first message."""
    def mac(key, *parts): return hmac.digest(key, b''.join(parts), 'sha256')
    kem, suite = b'HPKE-v1KEM\0\x20', b'HPKE-v1HPKE\0\x20\0\1\0\2'
    both = encapsulated + private.public_key().public_bytes_raw()
    agreed = mac(b'', kem, b'eae_prk', private.exchange(X25519PublicKey.from_public_bytes(encapsulated)))
    secret = mac(mac(agreed, b'\0\x20', kem, b'shared_secret', both, b'\1'), suite, b'secret')
    context = b'\0' + mac(b'', suite, b'psk_id_hash') + mac(b'', suite, b'info_hash', HPKE_INFO)
    nonce = mac(secret, b'\0\x0c', suite, b'base_nonce', context, b'\1')[:12]
    return AESGCM(mac(secret, b'\0\x20', suite, b'key', context, b'\1')).decrypt(nonce, sealed, associated)

def recovery_secret(text):
    digits = re.sub(r'[-\s]', '', text.upper()).translate(str.maketrans('OILJKMNPQRSTVWXYZ', '011IJKLMNOPQRSTUV'))
    need(re.fullmatch('LPOJ[0-9A-V]{56}', digits), 'the file holds no recovery key: NSRK and 14 groups of four')
    secret = int(digits[4:], 32).to_bytes(35, 'big')
    need(hashlib.sha256(secret[:32]).digest()[:3] == secret[32:], 'the recovery key has a typing error')
    return secret[:32]

class Segment:
    def __init__(self, pack, file):
        self.pack, self.cipher, head = pack, None, file.read(HEADER.size)
        (magic, version, _, zero, self.epoch, _, self.domain, self.id, self.encapsulated, self.sealed, count, zero2,
         body) = HEADER.unpack(head)
        need(version == VERSION, f'{OTHER} {version}')
        need(magic == b'NSsegmnt' and zero == zero2 == 0 and 1 <= count <= 65536, 'the header of a segment cannot be')
        self.bound, self.rows = head[:64], list(ROW.iter_unpack(file.read(ROW.size * count)))
        lengths = (0 if row[3] & ABSENT else row[5] for row in self.rows)
        *self.starts, self.end = itertools.accumulate(lengths, initial=file.tell())
        need(self.end - self.starts[0] == body, 'the table of a segment does not fit its body')
        self.present = [ordinal for ordinal, row in enumerate(self.rows) if not row[3] & ABSENT]

class Repository:
    def __init__(self, root, key=None):
        self.root, self.id_key, self.signer = os.path.realpath(root) + '/', None, None
        self.open_blob = functools.lru_cache(8)(self.open_blob)
        config = self.signed('repository/config.json')
        need(config['format'] == VERSION, f'{OTHER} {config["format"]}')
        unknown = ', '.join(sorted(set(config['required_features']) - FEATURES))
        need(not unknown, f'the repository needs features that this reader does not know: {unknown}')
        self.id, self.signer = bytes.fromhex(config['id']), config['signing_key']
        if key:
            self.unlock(pathlib.Path(key).read_text(encoding='utf-8'))

    def list(self, folder, pattern):
        path = self.root + folder
        return sorted(name for name in os.listdir(path) if re.fullmatch(pattern, name)) if os.path.isdir(path) else []

    def read(self, path, sha256=None):
        data = pathlib.Path(self.root + path).read_bytes()
        need(sha256 in (None, hashlib.sha256(data).hexdigest()), f'{path} is damaged: its SHA-256 is another')
        return data

    def signed(self, path):
        with contextlib.suppress(Exception):  # config.json brings the key itself; the keyring proves it
            body, newline, last = self.read(path).rstrip(b'\n').rpartition(b'\n')
            content, last = json.loads(body), json.loads(last)
            signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.signer or content['signing_key']))
            signer.verify(bytes.fromhex(last['signature']), body + newline)
            return content
        need(path == 'repository/config.json', f'{path} is missing, damaged or not signed by this repository')
        return self.signed('repository/config.copy.json')

    def unlock(self, text):
        def first(folder, key, bound):
            for name in self.list(folder, r'.*\.json'):
                with contextlib.suppress(Exception):
                    box = json.loads(self.read(f'{folder}/{name}'))
                    nonce, sealed = bytes.fromhex(box['nonce']), bytes.fromhex(box['sealed'])
                    return AESGCM(key(box)).decrypt(nonce, sealed, bound + f'{box["slot"]}\0{box["kind"]}'.encode()
                                                    if 'slot' in box else bound)
            raise ValueError(f'this recovery key opens nothing in {folder}')
        secret, context = recovery_secret(text), 'neurashield backup 2026 recovery slot'
        root = first('repository/keys/slots', lambda slot: blake3(
            secret + bytes.fromhex(slot['salt']), derive_key_context=context).digest(), b'slot\0' + self.id)
        ring = json.loads(first('repository/keys', lambda _: root, b'keyring\0' + self.id))
        self.private = {one['epoch']: X25519PrivateKey.from_private_bytes(bytes.fromhex(one['private']))
                        for one in ring['sealing']}
        signer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(ring['signing'])).public_key()
        need(signer.public_bytes_raw().hex() == self.signer, 'config.json is not signed by the key of the keyring')
        self.id_key = lambda domain: keyed(bytes.fromhex(ring['domain_secret']), b'id key\0', domain)

    @functools.cached_property
    def packs(self):
        """The segments of every pack, from the packs themselves: an index may be missing or wrong."""
        folders = [f'repository/packs/{shard}' for shard in self.list('repository/packs', '[0-9a-f]{2}')]
        found = {f'{folder}/{pack}': [] for folder in folders for pack in self.list(folder, '[0-9a-f]{64}')}
        for pack, segments in found.items():
            with noting(pack), open(self.root + pack, 'rb') as file:
                magic, version, zero, count = struct.unpack('<8sHHI', file.read(16))
                need(version == VERSION, f'{OTHER} {version}')
                need(magic == b'NSpack01' and zero == 0, 'it is no pack')
                for _ in range(count):
                    segments.append(Segment(pack, file))
                    file.seek(segments[-1].end)
        return found

    @functools.lru_cache(1)
    def blobs(self, domain):
        found = {}  # places by id; one domain at a time is kept, for there may be many
        for segment in itertools.chain(*self.packs.values()):
            for ordinal in segment.present if segment.domain == domain else ():
                found.setdefault(segment.rows[ordinal][0], []).append((segment, ordinal))
        return found

    def open_blob(self, segment, ordinal):
        """Kind and plaintext of a blob: never a wrong byte."""
        blob, kind, codec, _, plain, stored = segment.rows[ordinal]
        need(plain <= 64 * MIB and stored <= 65 * MIB and codec < 2, 'its row of the table cannot be')
        segment.cipher = segment.cipher or AESGCM(
            hpke_open(self.private[segment.epoch], segment.encapsulated, segment.bound, segment.sealed))
        with open(self.root + segment.pack, 'rb') as file:
            sealed = os.pread(file.fileno(), stored, segment.starts[ordinal])
        bound = self.id + segment.domain + segment.id + struct.pack('<IBBII', ordinal, kind, codec, plain, stored)
        data = segment.cipher.decrypt(struct.pack('<QI', ordinal, 0), sealed, b'blob\0' + bound + blob)
        data = zstandard.ZstdDecompressor().stream_reader(data).read(plain + 1) if codec else data
        name = keyed(self.id_key(segment.domain), b'blob\0', bytes([kind]), data)
        need(len(data) == plain and name == blob, 'it is not what its id says')
        return kind, data

    def blob(self, domain, blob, kind):
        reason = 'is in no pack'
        for segment, ordinal in self.blobs(domain).get(blob, ()):
            with contextlib.suppress(Exception):
                found, data = self.open_blob(segment, ordinal)
                need(found == kind, 'it is used as what it is not')
                return data
            reason = f'is damaged in {segment.pack}'
        raise ValueError(f'blob {blob.hex()[:16]} {reason}')

def split(path):
    names = path.split(b'/') if path else []  # none of which may lead out of the place it is restored to
    need(all(0 < len(name) < 256 and name not in (b'.', b'..') and b'\0' not in name for name in names)
         and len(path) <= 65535 and len(names) <= 4096, f'the path {path[:300]!r} cannot be')
    return names

def read_page(page):
    path, ids = b'', page.many(MIB, page.take)
    for _ in range(page.varint(131073)):
        path = path[:page.varint(len(path))] + page.take(page.varint(65535))
        entry = types.SimpleNamespace(path=path, names=split(path), extents=[], pieces=[], lists=[], target=(0, 0))
        entry.kind, entry.mode = page.take(1)[0], page.varint(0o7777)
        entry.uid, entry.gid = page.varint(), page.varint()
        need(FOLDER <= entry.kind <= BLOCK and (path or entry.kind == FOLDER), f'{entry.kind} is no kind of entry here')
        entry.time = ((seconds := page.varint()) >> 1 ^ -(seconds & 1)) * 10**9 + page.varint(10**9 - 1)
        entry.xattrs = page.many(4096, lambda: (page.take(page.varint(255)), page.take(page.varint(65536))))
        if entry.kind == FILE:
            entry.size, entry.content, extents, end = page.varint(), page.take(), page.varint(65537), 0
            for _ in range(extents - 1):
                entry.extents.append((start := end + page.varint(), end := start + page.varint()))
            entry.extents = entry.extents if extents or not entry.size else [(0, entry.size)]
            need(end <= entry.size, f'an extent of {path!r} lies behind its end')
            listed = page.take(1) != b'\0'
            entry.lists = page.many(65536, lambda: ids[page.varint()]) if listed else []
            entry.pieces = [] if listed else page.pieces(ids)
        elif entry.kind in (SYMLINK, LINK):
            entry.target = page.take(page.varint(65535))
        elif entry.kind in (CHARACTER, BLOCK):
            entry.target = page.varint(), page.varint()
        yield entry

class Archive:
    def __init__(self, repo, backup, one):
        self.repo, self.label = repo, f'{one["component"]}/{one["source"]}'
        need(re.fullmatch(SOURCE, self.label), 'its name cannot be')
        manifest = json.loads(repo.read(f'{backup}/{self.label}.json', one['manifest']))
        need(manifest['format'] == VERSION, f'{OTHER} {manifest["format"]}')
        self.domain, self.root = bytes.fromhex(manifest['domain']), bytes.fromhex(manifest['root'])

    def entries(self):
        """The entries in their order. A page that is lost is a finding, and the others follow."""
        table, before = Bytes(self.repo.blob(self.domain, self.root, TABLE)), None
        for first, page, _ in table.many(MIB, lambda: (table.take(table.varint(65535)), table.take(), table.varint())):
            with noting(f'{self.label}: {first!r} and what follows to the next page'):
                for entry in list(read_page(Bytes(self.repo.blob(self.domain, page, PAGE)))):
                    need(before is None or before < entry.names, f'{entry.path!r} is out of order')
                    before = entry.names
                    yield entry

    def pieces(self, entry):
        yield from entry.pieces
        for source in (Bytes(self.repo.blob(self.domain, blob, PIECES)) for blob in entry.lists):
            yield from source.pieces(source.many(MIB, source.take))

    def restore(self, wanted):
        """Writes into the working directory, and goes from folder to folder with it, through no link: an entry
        lies in a folder made here, and each folder is closed to others (0700) until all in it is done."""
        root, made, folders = os.open('.', os.O_DIRECTORY), set(), []
        for entry in itertools.chain(filter(wanted, self.entries()), [None]):
            while folders and (entry is None or folders[-1].names != entry.names[:len(folders[-1].names)]):
                folder = folders.pop()
                os.chdir('..' if folder.names else '.')
                with noting(f'{self.label}: {folder.path!r}'):
                    self.finish(folder.names[-1] if folder.names else '.', folder)
            with noting(f'{self.label}: {entry and entry.path!r}'):
                if entry and entry.kind != SOCKET:  # the program that serves a socket makes it anew
                    need(folders[-1].names == entry.names[:-1] if folders else not entry.names, 'it lies in no folder')
                    name = entry.names[-1] if entry.names else b'.'
                    self.make(entry, name, made, root)
                    if entry.kind == FOLDER:
                        folders.append(entry)
                    elif entry.kind != LINK:
                        self.finish(name, entry)
                    made.add(entry.path)
        os.close(root)

    def make(self, entry, name, made, root):
        if entry.kind == FOLDER:
            os.makedirs(name, 0o700, exist_ok=not entry.names)
            os.chdir(name)
        elif entry.kind == FILE:
            self.write(name, entry)
        elif entry.kind == SYMLINK:
            os.symlink(entry.target, name)
        elif entry.kind == LINK:
            need(entry.target and entry.target in made, f'its first name {entry.target!r} was not restored')
            os.link(b'/proc/self/fd/%d/%s' % (root, entry.target), name, follow_symlinks=False)
        else:
            kind = {FIFO: stat.S_IFIFO, CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK}[entry.kind]
            os.mknod(name, kind | 0o600, os.makedev(*entry.target))

    def write(self, name, entry):
        content, pieces, left = blake3(b'content\0', key=self.repo.id_key(self.domain)), self.pieces(entry), b''
        with open(name, 'xb', 0) as file:
            try:
                file.truncate(entry.size)
                for start, end in entry.extents:
                    file.seek(start)
                    while file.tell() < end:
                        if not left:
                            blob, begin, length = next(pieces, (b'', 0, 0))
                            left = memoryview(self.repo.blob(self.domain, blob, DATA))[begin:begin + length]
                            need(0 < length == len(left), 'a piece lies outside of its blob')
                        written = file.write(left[:end - file.tell()])
                        content.update(left[:written])
                        left = left[written:]
                    content.update(struct.pack('<QQ', start, end - start))
                content.update(struct.pack('<Q', entry.size))
                need(not left and next(pieces, None) is None, 'it has more pieces than data')
                need(content.digest() == entry.content, 'its content is not what its id says')
            except Exception:
                os.unlink(name)  # no file is better than a wrong one
                raise

    def finish(self, name, entry):
        if os.geteuid() == 0:
            os.chown(name, entry.uid, entry.gid, follow_symlinks=False)
        for attribute, value in entry.xattrs:
            with noting(f'{self.label}: {entry.path!r} is without its attribute {attribute!r}'):
                os.setxattr(name, attribute, value, follow_symlinks=False)
        os.utime(name, ns=(entry.time, entry.time), follow_symlinks=False)
        if entry.kind != SYMLINK:
            os.chmod(name, entry.mode)

def backups(repo):
    found = {}  # by sequence, which is their order
    for name in repo.list('', r'\d{8}_\d{6}'):
        if os.path.lexists(repo.root + f'{name}/backup.json') and repo.read(f'{name}/backup.json') != ABANDONED:
            with noting(f'backup {name}'):
                backup = repo.signed(f'{name}/backup.json')
                need(backup['format'] == VERSION, f'{OTHER} {backup["format"]}')
                need((backup['repository'], backup['name']) == (repo.id.hex(), name), 'it is of another name or place')
                found[backup['sequence']] = backup
    return dict(sorted(found.items()))

def look(repo, deep):
    """Lists what the chain and the folders know; `deep` looks into packs, sums and, with the key, every entry."""
    found, lines = backups(repo), repo.list('repository/chain', r'\d{20}\.json')
    for pack, segments in repo.packs.items() if deep else ():
        with noting(pack), open(repo.root + pack, 'rb') as file:
            need(pack.endswith(hashlib.file_digest(file, 'sha256').hexdigest()), 'its SHA-256 is not its name')
        for segment, ordinal in [(one, ordinal) for one in segments if repo.id_key for ordinal in one.present]:
            segment.present.remove(ordinal)  # what is damaged does not count as there
            with noting(f'{pack}: blob {segment.rows[ordinal][0].hex()[:16]}'):
                repo.open_blob(segment, ordinal)
                segment.present.append(ordinal)
    for sequence in sorted({int(line[:20]) for line in lines} | {*found}):
        backup, line, holds = found.get(sequence), f'repository/chain/{sequence:020}', []
        with noting(f'backup {sequence}'):
            known = backup if backup and f'{sequence:020}.json' not in lines else repo.signed(f'{line}.json')
            name, state = known['name'], 'retired' if os.path.lexists(f'{repo.root}{line}.pruned.json') else 'lost'
            holds = [one for one in backup['archives'] if one['refs']] if backup else []
            print(f'{sequence:8}  {name}  {backup["outcome"] if backup else state:10}',
                  *(f'{one["component"]}/{one["source"]}' for one in holds))
            if backup and known is not backup:  # the newest may miss its line
                repo.read(f'{name}/backup.json', known['backup'])
            for line in repo.read(f'{name}/SHA256SUMS').decode().splitlines() if backup and deep else ():
                with noting(f'{name}/{line[66:]}'):
                    repo.read(f'{name}/{line[66:]}', line[:64])
        for one in holds if deep and repo.id_key else ():
            with noting(f'{name}: {one["component"]}/{one["source"]}'):
                archive = Archive(repo, name, one)
                for entry in archive.entries():
                    with noting(f'{name}: {archive.label}: {entry.path!r} is damaged'):
                        lost = sum(blob not in repo.blobs(archive.domain) for blob, _, _ in archive.pieces(entry))
                        need(not lost, f'{lost} of its pieces are lost')

def latest(found, components):
    """By component the newest backup that holds it complete; what was made before a restore is none."""
    newest, held = {}, set()
    for one in found:  # the oldest first
        if not (one.get('pin') or '').startswith('safety backup before restore '):
            lacks = {what['component'] for what in one['archives'] if what['outcome'] != 'complete'}
            whole = {what['component'] for what in one['archives']} - lacks
            held |= {what['component'] for what in one['archives'] if what['outcome'] != 'failed'}
            newest.update({component: one['name'] for component in whole})
    wanted = components or held
    need(wanted, 'there is no backup')
    need(wanted <= {*newest}, f'no backup holds {", ".join(sorted(wanted - {*newest}))} complete: name one of the list')
    return {component: newest[component] for component in wanted}

def restore(repo, name, target, selection):
    found = {backup['name']: backup for backup in backups(repo).values()}
    chosen = latest(found.values(), {what.split('/')[0] for what in selection}) if name == 'latest' else None
    names = sorted({*chosen.values()}) if chosen else [name]
    need(all(name in found for name in names), f'there is no backup {name}')
    os.makedirs(target, 0o700, exist_ok=True)
    need(not os.listdir(target), f'{target} is not empty')
    need(not os.stat(target).st_mode & 0o022, f'{target} can be written to by others: take a folder of your own')
    target, paths = os.path.realpath(target), [split(os.fsencode(what)) for what in selection] or [[]]
    archives = [(name, one) for name in names for one in found[name]['archives'] if one['refs']]  # the others failed
    for name, one in ((of, one) for of, one in archives if not chosen or chosen.get(one['component']) == of):
        label = [os.fsencode(one['component']), os.fsencode(one['source'])]
        inside = [path[2:] for path in paths if path[:2] == label[:len(path)]]
        with noting(f'{one["component"]}/{one["source"]}'):
            if inside:
                archive = Archive(repo, name, one)
                os.makedirs(os.path.join(target, archive.label), 0o700)
                os.chdir(os.path.join(target, archive.label))
                archive.restore(lambda entry: any(
                    entry.names[:len(path)] == path or entry.kind == FOLDER and path[:len(entry.names)] == entry.names
                    for path in inside))
    os.sync()
    lost = [what for what in selection if not os.path.lexists(os.path.join(target, what))]
    need(not lost, f'{" ".join(names)} holds no {", ".join(lost)}, or it could not be restored')
    print(f'{" ".join(names)} lies in {target}')

def main(arguments):
    try:
        match arguments:
            case ['list', root]: look(Repository(root), deep=False)
            case ['check', root, *key] if len(key) < 2: look(Repository(root, *key), deep=True)
            case ['restore', root, key, name, target, *selection]:
                restore(Repository(root, key), name, target, selection)
            case _: return print(__doc__, file=sys.stderr) or 2
    except Exception as error:
        print(f'rescue.py: {error}', file=sys.stderr)
        return 1
    print(f'{arguments[0]}: {len(FINDINGS)} findings')
    return (3 if arguments[0] == 'restore' else 4) if FINDINGS else 0

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
