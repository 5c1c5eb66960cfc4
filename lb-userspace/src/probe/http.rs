//! An HTTP/1.1 question: is the status of `GET PATH` one of those wanted?
//!
//! The body is not read: the status line and headers (at most [`MAX_HEAD`] bytes) are the answer.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::connect::failure;
use super::{Failure, FailureKind, Limit};

/// Status line and headers longer than this are garbage.
const MAX_HEAD: usize = 16 * 1024;
const AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"));

pub(super) struct Question<'a> {
    pub(super) target: SocketAddr,
    pub(super) path: &'a str,
    pub(super) host: Option<&'a str>,
    pub(super) status: &'a RangeInclusive<u16>,
}

impl Question<'_> {
    pub(super) async fn ask(&self, stream: TcpStream, limit: Limit) -> Result<(), Failure> {
        let request = self.request()?;
        let silence = || format!("connected, but no HTTP answer from {self}");
        let response = limit
            .wait(exchange(stream, request), silence)
            .await?
            .map_err(|error| self.explain(&error))?;
        let status = response.status();
        if self.status.contains(&status.as_u16()) {
            return Ok(());
        }
        let (low, high) = (self.status.start(), self.status.end());
        let wanted = if low == high { low.to_string() } else { format!("{low}-{high}") };
        let detail = format!("HTTP {} from {self} (wanted {wanted})", status.as_u16());
        Err(Failure::new(FailureKind::HttpStatus, detail))
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, Failure> {
        let host = match (self.host, self.target.port()) {
            (Some(host), _) => host.to_owned(),
            (None, 80) => self.authority(),
            (None, _) => self.target.to_string(),
        };
        Request::get(self.path)
            .header(HOST, host)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "*/*")
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| {
                let detail = format!("cannot ask for {:?} of {}: {error}", self.path, self.target);
                Failure::new(FailureKind::Local, detail)
            })
    }

    /// The address alone, as in a URL.
    fn authority(&self) -> String {
        match self.target {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        }
    }

    fn explain(&self, error: &hyper::Error) -> Failure {
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            let detail = format!("{} closed the connection before answering", self.target);
            return Failure::new(FailureKind::Reset, detail);
        }
        if let Some(io) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            return failure(io, self.target);
        }
        let detail = format!("no HTTP/1 answer from {self} ({error})");
        Failure::new(FailureKind::Protocol, detail)
    }
}

impl std::fmt::Display for Question<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.target, self.path)
    }
}

async fn exchange(
    stream: TcpStream,
    request: Request<Empty<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(Abrupt(TokioIo::new(stream)))
        .await?;
    let mut answer = pin!(sender.send_request(request));
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The answer, or the error that ended the connection, is already on its way.
        _ = connection => answer.await,
    }
}

/// A connection whose orderly close is left out: with it the dropped socket would linger in
/// `TIME_WAIT` in spite of linger 0, since hyper shuts down as soon as it has the answer.
struct Abrupt(TokioIo<TcpStream>);

impl Read for Abrupt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Abrupt {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
