//! Fuzz target for the NBD server: any bytes as a client, first as they are, then behind a right beginning.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use futures::FutureExt;
use futures::future::{BoxFuture, join};
use sancerre_serve::{
    ClientLimits, ReadFailure, ServedDisk, Server, Stretch, WriteFailure, WrittenDisk, wire,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

const SIZE: u64 = 1 << 20;

/// One runtime for all inputs: to make one costs more than a conversation.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());

/// A disk whose every other 4 KiB are zeros.
struct Stripes {
    name: &'static str,
    is_writable: bool,
}

impl ServedDisk for Stripes {
    fn name(&self) -> &str {
        self.name
    }

    fn size_bytes(&self) -> u64 {
        SIZE
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, Result<(), ReadFailure>> {
        let end = offset + buffer.len() as u64;
        assert!(!buffer.is_empty() && end <= SIZE, "asked for {offset}..{end}");
        let bad = (SIZE / 2..SIZE / 2 + 4096).contains(&offset);
        async move { if bad { Err(ReadFailure("damaged".to_owned())) } else { Ok(()) } }.boxed()
    }

    fn stretches(&self, range: Range<u64>, most: usize) -> BoxFuture<'_, Result<Vec<Stretch>, ReadFailure>> {
        assert!(!range.is_empty() && range.end <= SIZE && most > 0, "asked for {range:?}");
        let end = (range.start / 4096 * 4096 + 4096).min(range.end);
        let stretch = Stretch { range: range.start..end, is_data: (range.start / 4096).is_multiple_of(2) };
        async move { Ok(vec![stretch]) }.boxed()
    }

    fn prepare(&self, range: Range<u64>) {
        assert!(range.end <= SIZE);
    }

    fn written(&self) -> Option<&dyn WrittenDisk> {
        if self.is_writable { Some(self) } else { None }
    }
}

impl WrittenDisk for Stripes {
    fn write(&self, offset: u64, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), WriteFailure>> {
        self.write_zeroes(offset..offset + bytes.len() as u64)
    }

    fn write_zeroes(&self, range: Range<u64>) -> BoxFuture<'_, Result<(), WriteFailure>> {
        assert!(!range.is_empty() && range.end <= SIZE, "asked for {range:?}");
        let is_full = range.start > SIZE / 2;
        let failure = WriteFailure { words: "no room".to_owned(), is_full };
        async move { if is_full { Err(failure) } else { Ok(()) } }.boxed()
    }

    fn trim(&self, range: Range<u64>) -> BoxFuture<'_, Result<(), WriteFailure>> {
        self.write_zeroes(range)
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), WriteFailure>> {
        async { Ok(()) }.boxed()
    }
}

/// Any bytes of a client end in the end of the connection, and in nothing else.
pub fn serve(input: &[u8]) {
    let _ = (wire::export_name(input), wire::info_request(input), wire::context_queries(input));
    let option = |number: u32, content: &[u8]| {
        [b"IHAVEOPT", &number.to_be_bytes()[..], &(content.len() as u32).to_be_bytes(), content].concat()
    };
    RUNTIME.block_on(async {
        converse(input.to_vec()).await;
        for name in ["disk0", "written"] {
            let go = [&wire::counted(name)[..], &[0, 0]].concat();
            let begun = [&3_u32.to_be_bytes()[..], &option(8, &[]), &option(7, &go)].concat();
            converse([&begun, input].concat()).await;
        }
    });
}

async fn converse(words: Vec<u8>) {
    let is_bug = Arc::new(AtomicBool::new(false));
    let hears = Arc::clone(&is_bug);
    let exports: [Arc<dyn ServedDisk>; 2] = [
        Arc::new(Stripes { name: "disk0", is_writable: false }),
        Arc::new(Stripes { name: "written", is_writable: true }),
    ];
    let server = Server::new(exports.to_vec(), ClientLimits::default(), move |message| {
        hears.fetch_or(message.contains("bug"), Ordering::Relaxed);
    });
    let (client, stream) = tokio::io::duplex(64 << 10);
    let (mut answers, mut out) = tokio::io::split(client);
    let talk = async {
        // The server may hang up first.
        let _ = out.write_all(&words).await;
        let _ = out.shutdown().await;
    };
    let listen = async {
        let mut buffer = vec![0; 64 << 10];
        while answers.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    join(server.converse(stream), join(talk, listen)).await;
    assert!(!is_bug.load(Ordering::Relaxed), "a request panicked");
}
