//! A connection with time limits: on the rest of a request's head once it has begun, and on a
//! client that does not accept what is written to it. The limits on idle connections and on bodies
//! are in other modules.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::{Place, Step};

/// A connection with time limits.
#[derive(Debug)]
pub(super) struct TimedStream {
    stream: TcpStream,
    place: Arc<Place>,
    head: Limit,
    write: Limit,
    /// The step for which the time limit of the head is running.
    running_for: u64,
}

/// A time limit that is started again and again.
#[derive(Debug)]
struct Limit {
    span: Duration,
    /// Created when it is first needed. Most connections never need it.
    sleep: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl TimedStream {
    /// Waits at most `head` for the rest of a head, and at most `write` for room to write.
    pub(super) fn new(
        stream: TcpStream,
        place: Arc<Place>,
        head: Duration,
        write: Duration,
    ) -> Self {
        Self {
            stream,
            place,
            head: Limit::new(head),
            write: Limit::new(write),
            running_for: 0,
        }
    }
}

impl Limit {
    fn new(span: Duration) -> Self {
        Self {
            span,
            sleep: None,
            is_running: false,
        }
    }

    /// Starts the time limit if it is not running. Ready when the time is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(self.span)));
        if !self.is_running {
            sleep.as_mut().reset(Instant::now() + self.span);
            self.is_running = true;
        }
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Returns the result of a write, or an error if the time for it is over.
    fn bound<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.is_running = false;
            return written;
        }
        self.poll(context).map(Err)
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            if buffer.filled().len() > before {
                self.place.record_bytes();
            }
            return read;
        }
        let (number, step) = self.place.step();
        if step != Step::Head {
            return Poll::Pending;
        }
        if self.running_for != number {
            self.running_for = number;
            self.head.is_running = false;
        }
        self.head.poll(cx).map(Err)
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.write.bound(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.write.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
