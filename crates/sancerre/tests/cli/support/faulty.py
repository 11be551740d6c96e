"""A file `disk` on FUSE that fails where it is told: argv is the file whose bytes it has, a file of rules, the mount point.

The rules are lines `eio START END` and `hang START END`, read anew at each read.
"""

import errno
import os
import sys
import time

import fusepy as fuse


class Faulty(fuse.Operations):
    def __init__(self, backing, rules):
        self.backing, self.rules = backing, rules

    def getattr(self, path, fh=None):
        if path == "/":
            return {"st_mode": 0o40755, "st_nlink": 2}
        if path != "/disk":
            raise fuse.FuseOSError(errno.ENOENT)
        size = os.stat(self.backing).st_size
        return {"st_mode": 0o100644, "st_nlink": 1, "st_size": size, "st_mtime": 1, "st_ctime": 1}

    def readdir(self, path, fh):
        return [".", "..", "disk"]

    def is_told(self, what, start, end):
        with open(self.rules) as rules:
            for line in rules:
                rule, first, last = line.split()
                if rule == what and int(first) < end and start < int(last):
                    return True
        return False

    def read(self, path, size, offset, fh):
        while self.is_told("hang", offset, offset + size):
            time.sleep(0.1)
        if self.is_told("eio", offset, offset + size):
            raise fuse.FuseOSError(errno.EIO)
        with open(self.backing, "rb") as backing:
            backing.seek(offset)
            return backing.read(size)


fuse.FUSE(Faulty(sys.argv[1], sys.argv[2]), sys.argv[3], foreground=True, direct_io=True, ro=True)
