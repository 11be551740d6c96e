"""A mount that passes everything on to a folder, but for what it was told to refuse.

    mount.py FOLDER MOUNTPOINT [CALL=ERRNO ...]     such as fsyncdir=EINVAL unlink=EPERM

Like every mount of libfuse 2 it cannot rename without replacing; it has no hard links unless it is told `links`.
Stays in the foreground; ends when it is unmounted.
"""

import errno
import os
import sys

try:
    from fusepy import FUSE, FuseOSError, Operations
except ImportError:
    from fuse import FUSE, FuseOSError, Operations


class Mount(Operations):
    def __init__(self, folder, refusals):
        self.folder = folder
        self.refusals = refusals

    def __call__(self, operation, path, *arguments):
        if operation in self.refusals:
            raise FuseOSError(self.refusals[operation])
        return getattr(self, operation)(self.folder + path, *arguments)

    def getattr(self, path, handle=None):
        stat = os.lstat(path)
        names = "st_atime st_ctime st_gid st_mode st_mtime st_nlink st_size st_uid st_blocks".split()
        return {name: getattr(stat, name) for name in names}

    def readdir(self, path, handle):
        return [".", ".."] + os.listdir(path)

    def statfs(self, path):
        stat = os.statvfs(path)
        names = "f_bavail f_bfree f_blocks f_bsize f_favail f_ffree f_files f_frsize f_namemax".split()
        return {name: getattr(stat, name) for name in names}

    def open(self, path, flags):
        return os.open(path, flags)

    def create(self, path, mode, info=None):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path, size, offset, handle):
        return os.pread(handle, size, offset)

    def write(self, path, data, offset, handle):
        return os.pwrite(handle, data, offset)

    def truncate(self, path, length, handle=None):
        os.truncate(path, length)

    def flush(self, path, handle):
        return 0

    def fsync(self, path, only_data, handle):
        os.fsync(handle)

    def fsyncdir(self, path, only_data, handle):
        return 0

    def release(self, path, handle):
        os.close(handle)

    def mkdir(self, path, mode):
        os.mkdir(path, mode)

    def rmdir(self, path):
        os.rmdir(path)

    def unlink(self, path):
        os.unlink(path)

    def rename(self, old, new):
        os.rename(old, self.folder + new)

    def link(self, new, old):
        os.link(self.folder + old, new)

    def chmod(self, path, mode):
        os.chmod(path, mode)

    def utimens(self, path, times=None):
        os.utime(path, times)

    access = None
    getxattr = None
    listxattr = None


def main():
    folder, mountpoint, *words = sys.argv[1:]
    refusals = {"link": errno.EPERM}
    for word in words:
        if word == "links":
            del refusals["link"]
        else:
            operation, name = word.split("=")
            refusals[operation] = getattr(errno, name)
    FUSE(Mount(os.path.realpath(folder), refusals), mountpoint, foreground=True, nothreads=False)


main()
