//! `grpc.health.v1.Health/Check` over HTTP/2: is the service `SERVING`?
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, and `PROTOCOL-HTTP2.md`
//! beside it: the call's status is in the headers if there is no message, else in the trailers.

use std::net::SocketAddr;
use std::pin::pin;

use h2::RecvStream;
use h2::client::SendRequest;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use hyper::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::excerpt::excerpt;
use super::{Failure, FailureKind, Limit, connect};
use crate::config::model::Grpc;

/// Bytes of headers, and of a message that says one number.
const MAX_HEAD: u32 = 16 * 1024;
const MAX_MESSAGE: usize = 4096;
const AGENT: &str = concat!("grpc-holdfast/", env!("CARGO_PKG_VERSION"));

pub(super) struct Question<'a> {
    pub(super) target: SocketAddr,
    pub(super) grpc: &'a Grpc,
}

/// What a server has said when the call is over.
struct Answer {
    message: Vec<u8>,
    /// `grpc-status`, wherever it was.
    code: Option<u16>,
    text: String,
}

impl Question<'_> {
    pub(super) async fn ask<S>(&self, stream: S, limit: Limit) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let silence = || format!("connected, but no gRPC answer from {}", self.target);
        let answer = limit.wait(self.call(stream), silence).await??;
        self.judge(&answer)
    }

    async fn call<S>(&self, stream: S) -> Result<Answer, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut builder = h2::client::Builder::new();
        builder.max_header_list_size(MAX_HEAD).enable_push(false);
        let (sender, connection) =
            builder.handshake::<_, Bytes>(stream).await.map_err(|error| self.explain(&error))?;
        let mut answer = pin!(self.check(sender));
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(self.explain(&error)),
            },
        }
    }

    async fn check(&self, sender: SendRequest<Bytes>) -> Result<Answer, Failure> {
        let broken = |error: h2::Error| self.explain(&error);
        let mut sender = sender.ready().await.map_err(broken)?;
        let (response, mut stream) = sender.send_request(self.request()?, false).map_err(broken)?;
        stream.send_data(request_message(&self.grpc.service).into(), true).map_err(broken)?;
        let (head, mut body) = response.await.map_err(broken)?.into_parts();
        if head.status != StatusCode::OK {
            let detail = format!("HTTP {} from {} (no gRPC)", head.status.as_u16(), self.target);
            return Err(Failure::new(FailureKind::HttpStatus, detail));
        }
        let mut message = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(broken)?;
            if message.len() + data.len() > MAX_MESSAGE {
                let detail =
                    format!("an answer of more than {MAX_MESSAGE} bytes from {}", self.target);
                return Err(Failure::new(FailureKind::Protocol, detail));
            }
            message.extend_from_slice(&data);
        }
        let trailers = self.trailers(&mut body).await?;
        let find = |name| trailers.get(name).or_else(|| head.headers.get(name));
        let code = find("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
        let text = find("grpc-message").map(|value| excerpt(value.as_bytes())).unwrap_or_default();
        Ok(Answer { message, code, text })
    }

    async fn trailers(&self, body: &mut RecvStream) -> Result<HeaderMap, Failure> {
        let trailers = body.trailers().await.map_err(|error| self.explain(&error))?;
        Ok(trailers.unwrap_or_default())
    }

    fn request(&self) -> Result<Request<()>, Failure> {
        let tls = self.grpc.tls.as_ref();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let authority = match tls.and_then(|tls| tls.sni.as_ref()) {
            Some(name) => format!("{name}:{}", self.target.port()),
            None => self.target.to_string(),
        };
        Request::post(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, AGENT)
            .body(())
            .map_err(|error| {
                Failure::new(FailureKind::Local, format!("cannot ask {}: {error}", self.target))
            })
    }

    fn judge(&self, answer: &Answer) -> Result<(), Failure> {
        let target = self.target;
        let asked = match self.grpc.service.as_str() {
            "" => "the server".to_owned(),
            service => format!("service {service:?}"),
        };
        let protocol = |detail: String| Err(Failure::new(FailureKind::Protocol, detail));
        let status = |detail: String| Err(Failure::new(FailureKind::HttpStatus, detail));
        match answer.code {
            Some(0) => {}
            Some(5) => return status(format!("{asked} is unknown to {target} (gRPC NOT_FOUND)")),
            Some(12) => {
                return status(format!("{target} has no health service (gRPC UNIMPLEMENTED)"));
            }
            Some(code) => {
                let text = &answer.text;
                return status(
                    format!("gRPC status {code} from {target} {text}").trim_end().into(),
                );
            }
            None => return protocol(format!("an answer without grpc-status from {target}")),
        }
        match serving_status(&answer.message) {
            Some(1) => Ok(()),
            Some(2) => status(format!("{asked} is NOT_SERVING at {target}")),
            Some(0) => status(format!("{asked} is UNKNOWN at {target}")),
            Some(other) => status(format!("{asked} has the health status {other} at {target}")),
            None => {
                protocol(format!("no health status in {} from {target}", excerpt(&answer.message)))
            }
        }
    }

    fn explain(&self, error: &h2::Error) -> Failure {
        if let Some(io) = error.get_io() {
            return match self.grpc.tls {
                Some(_) => super::tls::failure(io, self.target),
                None => connect::failure(io, self.target),
            };
        }
        let detail = format!("no gRPC answer from {} ({error})", self.target);
        Failure::new(FailureKind::Protocol, detail)
    }
}

/// `HealthCheckRequest { service }`, behind its length.
fn request_message(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(service.len(), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend(message);
    framed
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// `status` of a `HealthCheckResponse` behind its length; 0 where the field is left out.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, mut rest) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix.get(1..)?.try_into().ok()?);
    if prefix.first() != Some(&0) || usize::try_from(length) != Ok(rest.len()) {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = read_varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = read_varint(&mut rest)?,
            (_, 0) => drop(read_varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(read_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statuses_are_read() {
        for (bytes, expect) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Some(1)),
            (b"\0\0\0\0\x02\x08\x02", Some(2)),
            (b"\0\0\0\0\0", Some(0)),
            // An unknown field before it.
            (b"\0\0\0\0\x06\x12\x02ab\x08\x01", Some(1)),
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x03\x08\x01", None),
            (b"\0\0\0\0\x01\x08", None),
            (b"", None),
        ] {
            assert_eq!(serving_status(bytes), expect, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_panics(rest in prop::collection::vec(any::<u8>(), 0..40)) {
            serving_status(&rest);
            let mut framed = (rest.len() as u32).to_be_bytes().to_vec();
            framed.insert(0, 0);
            framed.extend(rest);
            serving_status(&framed);
        }
    }
}
