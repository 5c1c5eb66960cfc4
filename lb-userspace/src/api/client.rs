//! The command line's side of the API: one request, one connection, and a limit of time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Drain, Flow, NewBackend, NewBlock, NewFreeze, NewWeight, OldBlock, Removal, Thaw};
use crate::config::model::Config;
use crate::report::{AlertTest, Alerts, Block, Changed, Error, ErrorKind, Explanation, Status};

/// For an answer, and for each of so many bytes sent another second: a million backends take their
/// time.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What a test of alerts waits for may take 20 s.
const TEST_TIMEOUT: Duration = Duration::from_secs(28);
const BYTES_A_SECOND: usize = 4 << 20;
/// A configuration can be as long as one that is applied.
const MAX_ANSWER: usize = super::MAX_CONFIG;

/// Talks to the daemon that serves a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No daemon at the socket, or none that answers.
    Unreachable(Error),
    /// The daemon, or the permissions of its socket, said no.
    Refused(Error),
}

impl Client {
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub async fn status(&self) -> Result<Status, Failure> {
        self.call(Method::GET, "/v1/status", &()).await
    }

    pub async fn config(&self) -> Result<Config, Failure> {
        self.call(Method::GET, "/v1/config", &()).await
    }

    pub async fn apply(&self, config: &Config) -> Result<Changed, Failure> {
        self.call(Method::POST, "/v1/apply", config).await
    }

    pub async fn reload(&self) -> Result<Changed, Failure> {
        self.call(Method::POST, "/v1/reload", &()).await
    }

    pub async fn explain(&self, flow: &Flow) -> Result<Explanation, Failure> {
        self.call(Method::POST, "/v1/explain", flow).await
    }

    /// `target` is `SERVICE/NAME`.
    pub async fn add(&self, target: &str, backend: &NewBackend) -> Result<Changed, Failure> {
        self.call(Method::POST, &format!("/v1/backends/{target}"), backend).await
    }

    pub async fn remove(&self, target: &str, removal: Removal) -> Result<Changed, Failure> {
        self.call(Method::DELETE, &format!("/v1/backends/{target}"), &removal).await
    }

    pub async fn weight(&self, target: &str, weight: NewWeight) -> Result<Changed, Failure> {
        self.call(Method::PUT, &format!("/v1/backends/{target}/weight"), &weight).await
    }

    pub async fn drain(&self, target: &str, drain: &Drain) -> Result<Changed, Failure> {
        self.call(Method::POST, &format!("/v1/backends/{target}/drain"), drain).await
    }

    pub async fn maint(&self, target: &str, drain: &Drain) -> Result<Changed, Failure> {
        self.call(Method::POST, &format!("/v1/backends/{target}/maint"), drain).await
    }

    pub async fn freeze(&self, freeze: &NewFreeze) -> Result<Changed, Failure> {
        self.call(Method::POST, "/v1/health/freeze", freeze).await
    }

    pub async fn thaw(&self, thaw: &Thaw) -> Result<Changed, Failure> {
        self.call(Method::POST, "/v1/health/thaw", thaw).await
    }

    pub async fn ready(&self, target: &str) -> Result<Changed, Failure> {
        self.call(Method::POST, &format!("/v1/backends/{target}/ready"), &()).await
    }

    pub async fn blocks(&self) -> Result<Vec<Block>, Failure> {
        self.call(Method::GET, "/v1/blocks", &()).await
    }

    pub async fn block(&self, block: &NewBlock) -> Result<Changed, Failure> {
        self.call(Method::POST, "/v1/blocks", block).await
    }

    pub async fn unblock(&self, block: OldBlock) -> Result<Changed, Failure> {
        self.call(Method::DELETE, "/v1/blocks", &block).await
    }

    pub async fn alerts(&self) -> Result<Alerts, Failure> {
        self.call(Method::GET, "/v1/alerts", &()).await
    }

    pub async fn alert_test(&self) -> Result<Vec<AlertTest>, Failure> {
        self.call_within(TEST_TIMEOUT, Method::POST, "/v1/alerts/test", &()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.call_within(TIMEOUT, method, path, body).await
    }

    async fn call_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error.to_string()))?;
        let limit = limit + Duration::from_secs((body.len() / BYTES_A_SECOND) as u64);
        match timeout(limit, self.exchange(method, path, body)).await {
            Ok(answer) => self.read(answer?),
            Err(_) => Err(self.broken(&format!("no answer within {} s", limit.as_secs()))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(bool, Bytes), Failure> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.not_connected(&error))?;
        let broken = |error: &dyn std::fmt::Display| self.broken(&error.to_string());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // Its errors reach the sender too.
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "lb")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let good = answer.status().is_success();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        connection.abort();
        Ok((good, body.map_err(|error| broken(&error))?.to_bytes()))
    }

    fn read<T: DeserializeOwned>(&self, (good, body): (bool, Bytes)) -> Result<T, Failure> {
        let strange = |error: serde_json::Error| {
            self.broken(&format!("an answer this lb doesn't understand: {error}"))
        };
        if good {
            serde_json::from_slice(&body).map_err(strange)
        } else {
            Err(Failure::Refused(serde_json::from_slice(&body).map_err(strange)?))
        }
    }

    fn not_connected(&self, error: &io::Error) -> Failure {
        let path = self.socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Refused(Error::new(
                ErrorKind::Refused,
                format!("permission denied on {path}"),
                "use sudo, or join the group `holdfast` to look without changing",
            )),
            io::ErrorKind::NotFound => self.unreachable(&format!("there is no socket {path}")),
            io::ErrorKind::ConnectionRefused => {
                self.unreachable(&format!("nobody answers on {path}"))
            }
            _ => self.unreachable(&format!("can't connect to {path}: {error}")),
        }
    }

    fn unreachable(&self, message: &str) -> Failure {
        Failure::Unreachable(Error::new(
            ErrorKind::Unreachable,
            message,
            "is `lb run` running? With another --socket, say the same here",
        ))
    }

    fn broken(&self, message: &str) -> Failure {
        Failure::Unreachable(Error::new(
            ErrorKind::Unreachable,
            format!("the daemon on {}: {message}", self.socket.display()),
            "is it the same version as this lb? See its log",
        ))
    }
}
