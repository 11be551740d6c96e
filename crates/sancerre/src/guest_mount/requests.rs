//! What the kernel asks of the tree, and what it is told.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};

use fuser::{
    AccessFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenAccMode,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyXattr, Request,
};
use sancerre_guest::{GuestFile, NodeKind};

use super::{BLOCK_BYTES, GuestTree, KEPT, NO_FILE, Thing, lock};

impl Filesystem for GuestTree {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.thing(parent).and_then(|parent| self.child(&parent, name.as_bytes()));
        match found {
            Ok(thing) => reply.entry(&KEPT, &self.hold(thing).1, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        let mut numbers = lock(&self.numbers);
        let Some((thing, held)) = numbers.things.get_mut(&number.0) else { return };
        *held = held.saturating_sub(times);
        if *held == 0 && number != INodeNo::ROOT {
            let key = thing.key();
            numbers.things.remove(&number.0);
            numbers.by_key.remove(&key);
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.thing(number) {
            Ok(thing) => reply.attr(&KEPT, &self.attributes(number, &thing)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let target = self.thing(number).and_then(|thing| match thing {
            Thing::FolderEntry { volume, node } => {
                self.guest.link(volume, node.id).map_err(|error| self.failed("a link", &error))
            }
            _ => Err(Errno::EINVAL),
        });
        match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        match self.thing(number) {
            Ok(Thing::FolderEntry { volume, node }) if node.kind == NodeKind::File => {
                let file = GuestFile::new(Arc::clone(&self.guest), volume, node.id, b"", node.size_bytes);
                let handle = self.handle();
                lock(&self.files).insert(handle, Arc::new(Mutex::new(file)));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Ok(Thing::Raw(_)) => reply.opened(FileHandle(NO_FILE), FopenFlags::FOPEN_KEEP_CACHE),
            Ok(_) => reply.error(Errno::EIO),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.thing(number).and_then(|thing| self.bytes(&thing, handle.0, offset, size)) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.files).remove(&handle.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.thing(number).and_then(|thing| self.names(&thing)) {
            Ok(names) => {
                let handle = self.handle();
                lock(&self.folders).insert(handle, Arc::new(names));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(names) = lock(&self.folders).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (name, kind)) in names.iter().enumerate().skip(first) {
            let next = u64::try_from(at).unwrap_or(u64::MAX).saturating_add(1);
            // The real numbers come with the names' attributes.
            if reply.add(INodeNo(u64::MAX), next, *kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        lock(&self.folders).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let bytes: u64 = self.guest.disks().iter().map(|disk| disk.size_bytes()).sum();
        reply.statfs(bytes / BLOCK_BYTES, 0, 0, 0, 0, 512, 4096, 512);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.attribute(number, Some(name.as_bytes())) {
            Ok(value) => sized(&value, size, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        match self.attribute(number, None) {
            Ok(names) => sized(&names, size, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        match mask.contains(AccessFlags::W_OK) {
            true => reply.error(Errno::EROFS),
            false => reply.ok(),
        }
    }
}

fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match (size, u32::try_from(value.len())) {
        (0, Ok(length)) => reply.size(length),
        (size, Ok(length)) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}
