//! Requests: read one after the other, answered as they are done.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::handshake::{Agreed, Rejected, skip};
use crate::limits::{ClientLimits, Held, Tell};
use crate::reply::{Answers, STEP_BYTES};
use crate::wire::{self, Broken, REQUEST_BYTES_MAX, command};

/// Serves requests until the client says goodbye or goes away.
///
/// Errors: the client broke a rule; the connection.
pub(crate) async fn serve<R, W>(
    mut reader: R,
    writer: W,
    agreed: Agreed,
    limits: &ClientLimits,
    tell: Tell,
) -> Result<(), Rejected>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let answers = Arc::new(Answers::new(agreed, writer, limits, tell));
    let slots = Arc::new(Semaphore::new(limits.requests));
    // Dropped with this future: what nobody waits for any more is not read.
    let mut tasks = JoinSet::new();
    loop {
        let Some(request) = next_beside(&mut reader, &mut tasks).await? else { return Ok(()) };
        let payload = match request.command {
            command::DISCONNECT => break,
            command::WRITE if request.length_bytes > REQUEST_BYTES_MAX => {
                return Err(Broken("a write is far too long").into());
            }
            command::WRITE => payload(&mut reader, &request, &answers).await?,
            _ => None,
        };
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        let answers = Arc::clone(&answers);
        tasks.spawn(async move {
            let _slot = slot;
            answers.answer(request, payload).await
        });
    }
    while let Some(done) = tasks.join_next().await {
        finished(done)?;
    }
    Ok(())
}

/// What is to be written; none, and passed over, where nothing is.
async fn payload<R, W>(
    reader: &mut R,
    request: &wire::ClientRequest,
    answers: &Answers<W>,
) -> Result<Option<Held>, Rejected>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(mut held) = answers.room(request).await else {
        skip(reader, request.length_bytes).await?;
        return Ok(None);
    };
    for step in held.bytes.chunks_mut(STEP_BYTES) {
        answers.memory.bear(answers.patience, reader.read_exact(step)).await?;
    }
    Ok(Some(held))
}

/// The next request, while answers end: the first that could not be sent ends the connection.
async fn next_beside<R: AsyncRead + Unpin>(
    reader: &mut R,
    tasks: &mut JoinSet<io::Result<()>>,
) -> Result<Option<wire::ClientRequest>, Rejected> {
    let mut next = std::pin::pin!(next(reader));
    loop {
        tokio::select! {
            biased;
            Some(done) = tasks.join_next() => finished(done)?,
            request = &mut next => return request,
        }
    }
}

/// The next request; none when the client went away between two.
async fn next<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<wire::ClientRequest>, Rejected> {
    let mut head = [0; 28];
    let first = match reader.read(&mut head).await {
        Ok(0) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        first => first?,
    };
    let rest = head.get_mut(first..).unwrap_or_default();
    reader.read_exact(rest).await?;
    Ok(Some(wire::request(&head)?))
}

/// A request whose answer could not be sent ends the connection, and so does one that panicked.
fn finished(done: Result<io::Result<()>, tokio::task::JoinError>) -> Result<(), Rejected> {
    match done {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(Rejected::Bug),
    }
}
