//! A connection's bytes, as hyper reads and writes them; and what passes is noted.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::connection::Connection;

/// The most that one read takes: the buffer is cleared before, which costs time.
const MAX_READ: usize = 16 * 1024;

/// A connection's bytes. It is shared with those who may close it, or ask whether its client has closed it.
pub(super) struct Transport(pub Arc<Connection>);

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &self.0.stream;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let room = buffer.remaining().min(MAX_READ);
            let into = buffer.initialize_unfilled_to(room);
            let mut read = 0;
            let outcome = stream.try_io(Interest::READABLE, || {
                read = rustix::io::read(stream, &mut *into)?;
                // Less than asked for: all has been read, and the system reports when there is more (epoll(7), on
                // EPOLLET). This is how tokio's own stream saves a call that would find nothing.
                if 0 < read && read < room { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match outcome {
                Err(error) if error.kind() == ErrorKind::WouldBlock && read == 0 => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
            match read {
                0 => self.0.answer_late_head(),
                _ => self.0.has_read(&into[..read]),
            }
            buffer.advance(read);
            return Poll::Ready(Ok(()));
        }
    }
}

impl Transport {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let connection = &self.0;
        loop {
            if connection.stream.poll_write_ready(cx)?.is_pending() {
                connection.can_not_send();
                return Poll::Pending;
            }
            match send(&connection.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => {
                    connection.has_sent_some();
                    return Poll::Ready(sent);
                }
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Called once all has been written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.has_sent_all();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An error: it has ended already.
        let _ = rustix::net::shutdown(&self.0.stream, Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::connection::tests::connected;
    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_whatever_their_number() {
        let (connection, mut client) = connected().await;
        let mut server = Transport(connection);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        for length in [1, MAX_READ - 1, MAX_READ, MAX_READ + 1, sent.len()] {
            let (mut there, mut back) = (vec![0; length], vec![0; length]);
            let (sending, receiving) = tokio::join!(client.write_all(&sent[..length]), server.read_exact(&mut there));
            sending.unwrap();
            receiving.unwrap();
            let (sending, receiving) = tokio::join!(server.write_all(&there), client.read_exact(&mut back));
            sending.unwrap();
            receiving.unwrap();
            assert!(back == sent[..length], "{length} bytes");
        }
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
