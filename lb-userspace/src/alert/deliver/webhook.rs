//! A message as an HTTP/1.1 POST; any status of 2xx is success.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

use super::{headers, tls};
use crate::config::model::Url;

/// Status line and headers longer than this are garbage.
const MAX_HEAD: usize = 16 * 1024;
const AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"));

/// Where headers and authorities are; the system's authorities if not given.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    pub(super) headers: Option<&'a str>,
    pub(super) authorities: Option<&'a str>,
}

/// Posts JSON; the caller limits the time.
pub(super) async fn post(url: &Url, files: Files<'_>, body: Vec<u8>) -> Result<(), String> {
    let request = request(url, files, body)?;
    let stream = connect(url).await?;
    let status = match url.https {
        true => exchange(tls::connect(stream, &url.host, files.authorities).await?, request).await,
        false => exchange(stream, request).await,
    };
    let status = status.map_err(|error| format!("no HTTP answer from {}: {error}", url.shown()))?;
    match status.is_success() {
        true => Ok(()),
        // A redirect is not followed: it would take the headers, and so the secret, elsewhere.
        false => Err(format!("{} answered HTTP {}", url.shown(), status.as_u16())),
    }
}

fn request(url: &Url, files: Files<'_>, body: Vec<u8>) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::post(&url.path)
        .header(HOST, url.authority())
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| format!("cannot ask {}: {error}", url.shown()))?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(path) = files.headers {
        // Given ones win, the type of the content included.
        request.headers_mut().extend(headers::read(path)?);
    }
    Ok(request)
}

/// Tries all addresses of the host in turn.
async fn connect(url: &Url) -> Result<TcpStream, String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("cannot connect to {}: {error}", url.authority());
    let mut last = None;
    for address in
        lookup_host((url.host.as_str(), url.port)).await.map_err(|error| failed(&error))?
    {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| failed(&"the name has no address"), |error| failed(&error)))
}

/// The status of the answer; its body is not read.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> hyper::Result<StatusCode> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The answer, or the error that ended the connection, is already on its way.
        _ = connection => answer.await,
    };
    Ok(answer?.status())
}
