"""What Numba has compiled, kept on disk, where nothing that happens to the files may fail a call.

Numba's own cache raises what reading and writing its files raises, at every call until someone deletes them
(numba#10434), and trusts what it reads. Here an entry that cannot be read is one that is not there, and is replaced;
one that cannot be written is left out.
"""

from hashlib import sha256
from pathlib import Path
from pickle import loads

from numba.core.caching import FunctionCache
from numba.core.serialize import dumps


def source_stamp():
    """What an entry depends on: the texts of all files of the backend, since functions are compiled into each other.

    Numba itself asks for the time and size of the one file that a function stands in.
    """
    texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return sha256(b"".join(sha256(text).digest() for text in texts)).hexdigest()


class SealedEntries:
    """A cache's files, whose entries say what they are of and carry a digest.

    The linker may end the process over machine code that is damaged. An entry may belong to another key, or to an
    older source: Numba writes the index first, so that a process which fails before it writes the entry, or meets
    another that compiles as well, leaves an index that refers to what was there.
    """

    def __init__(self, files, source_stamp):
        self.files, self.source_stamp = files, source_stamp

    def flush(self):
        self.files.flush()

    def save(self, key, data):
        content = dumps((self.source_stamp, key, data))
        entry = sha256(content).digest(), content
        try:
            self.files.save(key, entry)
        except Exception:  # an index that cannot be read: a new one takes its place
            self.files.flush()
            self.files.save(key, entry)

    def load(self, key):
        entry = self.files.load(key)
        if entry is None:
            return None
        digest, content = entry
        if digest != sha256(content).digest():
            return None
        *owner, data = loads(content)
        return data if owner == [self.source_stamp, key] else None


STAMP = source_stamp()


class KernelCache(FunctionCache):
    """The cache of one function. Raises RuntimeError or OSError where no directory for it can be written."""

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = SealedEntries(self._cache_file, STAMP)

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever unpickling makes of damaged bytes, as well as what the file system refuses
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception:  # a full disk, a directory that has vanished: the next process compiles again
            pass
