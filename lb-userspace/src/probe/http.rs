//! An HTTP/1.1 question: are status and body of the answer those wanted?
//!
//! Of the answer, the head (at most [`MAX_HEAD`] bytes) and the beginning of the body (at most
//! [`MAX_BODY`], and only if something is wanted of it) are read.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, USER_AGENT};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use regex_lite::Regex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::failure;
use super::datagram::contains;
use super::excerpt::excerpt;
use super::{Failure, FailureKind, Limit};
use crate::config::model::{BodyMatch, Http, Method};

/// Status line and headers longer than this are garbage.
const MAX_HEAD: usize = 16 * 1024;
/// What is wanted of a body must be in its first bytes.
const MAX_BODY: usize = 64 * 1024;
const AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"));

pub(super) struct Question<'a> {
    pub(super) target: SocketAddr,
    pub(super) http: &'a Http,
    /// That of the body, where one is wanted.
    pub(super) regex: Option<&'a Regex>,
}

impl Question<'_> {
    pub(super) async fn ask<S>(&self, stream: S, limit: Limit) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let request = self.request()?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(Abrupt(TokioIo::new(stream)))
            .await
            .map_err(|error| self.explain(&error, "answering"))?;
        let mut judged = pin!(async {
            let silence = || format!("connected, but no HTTP answer from {self}");
            let response = limit.wait(sender.send_request(request), silence).await?;
            let response = response.map_err(|error| self.explain(&error, "answering"))?;
            self.judge(response, limit).await
        });
        tokio::select! {
            biased;
            judged = &mut judged => judged,
            // The answer, or the error that ended the connection, is already on its way.
            _ = connection => judged.await,
        }
    }

    async fn judge(&self, response: Response<Incoming>, limit: Limit) -> Result<(), Failure> {
        let status = response.status().as_u16();
        let wanted = &self.http.status;
        if !wanted.contains(status) {
            let detail = format!("HTTP {status} from {self} (wanted {wanted})");
            return Err(Failure::new(FailureKind::HttpStatus, detail));
        }
        let Some(body) = &self.http.body else { return Ok(()) };
        let silence = || format!("HTTP {status} from {self}, but no end of the body");
        let seen = limit.wait(self.read(response.into_body(), body), silence).await??;
        if self.passes(body, &seen) {
            return Ok(());
        }
        let wanted = match body {
            BodyMatch::Contains(text) => format!("{text:?} is not in"),
            BodyMatch::Regex(regex) => format!("nothing matches {regex:?} in"),
        };
        let most = if seen.len() > MAX_BODY { "the first 64 KiB of " } else { "" };
        let detail = format!("{wanted} {most}{} from {self}", excerpt(&seen));
        Err(Failure::new(FailureKind::Body, detail))
    }

    /// The body, as far as it takes to judge it.
    async fn read(&self, mut body: Incoming, wanted: &BodyMatch) -> Result<Vec<u8>, Failure> {
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.explain(&error, "the end of its answer"))?;
            if let Some(data) = frame.data_ref() {
                let room = (MAX_BODY + 1).saturating_sub(seen.len());
                seen.extend_from_slice(data.get(..room).unwrap_or(data));
            }
            // A server that never ends its answer may have said enough.
            let enough = matches!(wanted, BodyMatch::Contains(_)) && self.passes(wanted, &seen);
            if enough || seen.len() > MAX_BODY {
                break;
            }
        }
        Ok(seen)
    }

    fn passes(&self, wanted: &BodyMatch, seen: &[u8]) -> bool {
        let seen = seen.get(..MAX_BODY).unwrap_or(seen);
        match wanted {
            BodyMatch::Contains(text) => contains(seen, text.as_bytes()),
            BodyMatch::Regex(_) => {
                self.regex.is_some_and(|regex| regex.is_match(&String::from_utf8_lossy(seen)))
            }
        }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, Failure> {
        let method = match self.http.method {
            Method::Get => hyper::Method::GET,
            Method::Head => hyper::Method::HEAD,
            Method::Options => hyper::Method::OPTIONS,
            Method::Post => hyper::Method::POST,
        };
        let usual = if self.http.tls.is_some() { 443 } else { 80 };
        let host = match (&self.http.host, self.target.port()) {
            (Some(host), _) => host.clone(),
            (None, port) if port == usual => self.authority(),
            (None, _) => self.target.to_string(),
        };
        let mut builder = Request::builder().method(method).uri(&self.http.path);
        if self.http.method == Method::Post {
            // RFC 9110 section 8.6
            builder = builder.header(CONTENT_LENGTH, 0);
        }
        builder
            .header(HOST, host)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "*/*")
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| {
                let path = &self.http.path;
                let detail = format!("cannot ask for {path:?} of {}: {error}", self.target);
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

    /// `awaited` is what did not come.
    fn explain(&self, error: &hyper::Error, awaited: &str) -> Failure {
        let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let cut = io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
        if cut || error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            let detail = format!("{} closed the connection before {awaited}", self.target);
            return Failure::new(FailureKind::Reset, detail);
        }
        if let Some(io) = io {
            // After a handshake, an alert may still refuse us (RFC 8446 section 4.4.2.4).
            return match self.http.tls {
                Some(_) => super::tls::failure(io, self.target),
                None => failure(io, self.target),
            };
        }
        let detail = format!("no HTTP/1 answer from {self} ({error})");
        Failure::new(FailureKind::Protocol, detail)
    }
}

impl std::fmt::Display for Question<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.http.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.target, self.http.path)
    }
}

/// A connection whose orderly close is left out: with it the dropped socket would linger in
/// `TIME_WAIT` in spite of linger 0, since hyper shuts down as soon as it has the answer.
struct Abrupt<S>(TokioIo<S>);

impl<S: AsyncRead + Unpin> Read for Abrupt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> Write for Abrupt<S> {
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
