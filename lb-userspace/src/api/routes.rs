//! What can be asked, by method and path.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::de::DeserializeOwned;

use super::{
    Drain, Flow, MAX_BODY, MAX_CONFIG, NewBackend, NewBlock, NewFreeze, NewWeight, OldBlock,
    Removal, Thaw,
};
use crate::config::model::{Backend, Config};
use crate::config::validate;
use crate::control::handle::{Actor, BackendChange, BlockChange, Handle, Request};
use crate::net::local_addresses;
use crate::report::{AlertTest, Alerts, Block, Changed, Error, ErrorKind, Explanation, Status};

const LONGEST_REASON: usize = 200;

/// Who is at the other end, by the kernel's word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) uid: u32,
}

#[derive(Clone)]
struct Api {
    handle: Handle,
    writers: Vec<u32>,
}

/// A peer that may change things. Taken before the body, so that nobody else's is read.
struct Writer(Actor);

type Body = Result<Bytes, BytesRejection>;
type Name = Result<Path<(String, String)>, PathRejection>;
type Answer<T> = Result<Json<T>, Failed>;

pub(super) fn router(handle: Handle, writers: &[u32]) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/config", get(config))
        .route("/v1/apply", post(apply).layer(DefaultBodyLimit::max(MAX_CONFIG)))
        .route("/v1/reload", post(reload))
        .route("/v1/backends/{service}/{name}", post(add).delete(remove))
        .route("/v1/backends/{service}/{name}/weight", put(weight))
        .route("/v1/backends/{service}/{name}/drain", post(drain))
        .route("/v1/backends/{service}/{name}/maint", post(maint))
        .route("/v1/backends/{service}/{name}/ready", post(ready))
        .route("/v1/health/freeze", post(freeze))
        .route("/v1/health/thaw", post(thaw))
        .route("/v1/blocks", get(blocks).post(block).delete(unblock))
        .route("/v1/alerts", get(alerts))
        .route("/v1/alerts/test", post(alert_test))
        .route("/v1/explain", post(explain))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Api { handle, writers: writers.to_vec() })
}

async fn status(State(api): State<Api>) -> Answer<Status> {
    Ok(Json(api.handle.ask(Request::Status).await?))
}

async fn config(State(api): State<Api>) -> Answer<Config> {
    Ok(Json(api.handle.ask(Request::Config).await?))
}

async fn apply(State(api): State<Api>, Writer(actor): Writer, body: Body) -> Answer<Changed> {
    // A large one takes its time, and probes have none to wait.
    let read = tokio::task::spawn_blocking(move || -> Result<Box<Config>, Failed> {
        let config: Box<Config> = read(body)?;
        validate(&config)?;
        Ok(config)
    });
    let config = read.await.map_err(|error| Error {
        kind: ErrorKind::Internal,
        message: format!("the configuration was not read: {error}"),
        hint: None,
    })??;
    Ok(Json(api.handle.ask(|reply| Request::Apply { config, actor, reply }).await?))
}

async fn reload(State(api): State<Api>, Writer(actor): Writer) -> Answer<Changed> {
    Ok(Json(api.handle.ask(|reply| Request::Reload { actor, reply }).await?))
}

async fn add(
    State(api): State<Api>,
    Writer(actor): Writer,
    name: Name,
    body: Body,
) -> Answer<Changed> {
    let Path((service, name)) = name?;
    let NewBackend { address, family, port, weight, backup, server_id } = read(body)?;
    let new = Backend::new(name, address);
    let backend = Backend { family, port, weight, backup, server_id, ..new };
    change(&api, service, BackendChange::Add(backend), false, actor).await
}

async fn remove(
    State(api): State<Api>,
    Writer(actor): Writer,
    name: Name,
    body: Body,
) -> Answer<Changed> {
    let Path((service, name)) = name?;
    let Removal { force } = read_if_any(body)?;
    change(&api, service, BackendChange::Remove { name }, force, actor).await
}

async fn weight(
    State(api): State<Api>,
    Writer(actor): Writer,
    name: Name,
    body: Body,
) -> Answer<Changed> {
    let Path((service, name)) = name?;
    let NewWeight { weight } = read(body)?;
    change(&api, service, BackendChange::Weight { name, weight }, false, actor).await
}

async fn drain(
    State(api): State<Api>,
    Writer(actor): Writer,
    name: Name,
    body: Body,
) -> Answer<Changed> {
    take_out(&api, actor, name, body, false).await
}

async fn maint(
    State(api): State<Api>,
    Writer(actor): Writer,
    name: Name,
    body: Body,
) -> Answer<Changed> {
    take_out(&api, actor, name, body, true).await
}

async fn take_out(
    api: &Api,
    actor: Actor,
    name: Name,
    body: Body,
    maintenance: bool,
) -> Answer<Changed> {
    let Path((service, name)) = name?;
    let Drain { reason, for_ms, force } = read_if_any(body)?;
    check_reason(reason.as_deref())?;
    check_time(for_ms, "leave it out for an open end")?;
    let lasts = for_ms.map(Duration::from_millis);
    let change_to = BackendChange::Drain { name, reason, lasts, maintenance };
    change(api, service, change_to, force, actor).await
}

async fn freeze(State(api): State<Api>, Writer(actor): Writer, body: Body) -> Answer<Changed> {
    let NewFreeze { service, reason, for_ms } = read(body)?;
    check_reason(reason.as_deref())?;
    check_time(Some(for_ms), "write how long, such as 30m")?;
    let lasts = Duration::from_millis(for_ms);
    let make = |reply| Request::Freeze { service, reason, lasts, actor, reply };
    Ok(Json(api.handle.ask(make).await?))
}

async fn thaw(State(api): State<Api>, Writer(actor): Writer, body: Body) -> Answer<Changed> {
    let Thaw { service } = read_if_any(body)?;
    Ok(Json(api.handle.ask(|reply| Request::Thaw { service, actor, reply }).await?))
}

async fn ready(State(api): State<Api>, Writer(actor): Writer, name: Name) -> Answer<Changed> {
    let Path((service, name)) = name?;
    change(&api, service, BackendChange::Ready { name }, false, actor).await
}

async fn blocks(State(api): State<Api>) -> Answer<Vec<Block>> {
    Ok(Json(api.handle.ask(Request::Blocks).await?))
}

async fn block(State(api): State<Api>, Writer(actor): Writer, body: Body) -> Answer<Changed> {
    let NewBlock { prefix, reason, for_ms, force } = read(body)?;
    check_reason(reason.as_deref())?;
    check_time(for_ms, "leave it out to block for good")?;
    let local = match force {
        true => None,
        false => Some(local_addresses().await.map_err(|error| Error {
            kind: ErrorKind::Internal,
            message: format!("{error:#}"),
            hint: None,
        })?),
    };
    let lasts = for_ms.map(Duration::from_millis);
    let change = BlockChange::Add { prefix, reason, lasts, local };
    Ok(Json(api.handle.ask(|reply| Request::Block { change, actor, reply }).await?))
}

async fn unblock(State(api): State<Api>, Writer(actor): Writer, body: Body) -> Answer<Changed> {
    let OldBlock { prefix } = read(body)?;
    let change = BlockChange::Remove { prefix };
    Ok(Json(api.handle.ask(|reply| Request::Block { change, actor, reply }).await?))
}

async fn alerts(State(api): State<Api>) -> Answer<Alerts> {
    Ok(Json(api.handle.ask(Request::Alerts).await?))
}

async fn alert_test(State(api): State<Api>, Writer(_): Writer) -> Answer<Vec<AlertTest>> {
    Ok(Json(api.handle.ask(Request::AlertTest).await?))
}

/// A reason ends up on terminals and in logs.
fn check_reason(reason: Option<&str>) -> Result<(), Error> {
    let is_bad = |reason: &str| {
        reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control)
    };
    if reason.is_some_and(is_bad) {
        let message = format!("a reason is one line of at most {LONGEST_REASON} characters");
        return Err(Error::new(ErrorKind::Invalid, message, "shorten it"));
    }
    Ok(())
}

/// A time that is not none.
fn check_time(for_ms: Option<u64>, hint: &str) -> Result<(), Error> {
    match for_ms {
        Some(0) => Err(Error::new(ErrorKind::Invalid, "it would end at once", hint)),
        _ => Ok(()),
    }
}

async fn explain(State(api): State<Api>, body: Body) -> Answer<Explanation> {
    let Flow { protocol, client, vip } = read(body)?;
    let make = |reply| Request::Explain { protocol, client, vip, reply };
    Ok(Json(api.handle.ask(make).await?))
}

async fn change(
    api: &Api,
    service: String,
    change: BackendChange,
    force: bool,
    actor: Actor,
) -> Answer<Changed> {
    let make = |reply| Request::Backend { service, change, force, actor, reply };
    Ok(Json(api.handle.ask(make).await?))
}

fn read<T: DeserializeOwned>(body: Body) -> Result<T, Failed> {
    serde_json::from_slice(&body?).map_err(|error| {
        let message = format!("the body is not what this path expects: {error}");
        Error::new(ErrorKind::Invalid, message, "send the JSON that `lb -o json` prints").into()
    })
}

/// Nothing stands for what a body is by default.
fn read_if_any<T: DeserializeOwned + Default>(body: Body) -> Result<T, Failed> {
    let body = body?;
    if body.is_empty() { Ok(T::default()) } else { read(Ok(body)) }
}

async fn no_such_path() -> Failed {
    let hint = "see /v1/status, /v1/config, /v1/apply, /v1/reload, /v1/backends/SERVICE/NAME, /v1/health/freeze, /v1/blocks, /v1/alerts, /v1/explain";
    Error::new(ErrorKind::NotFound, "there is no such path", hint).into()
}

async fn wrong_method() -> Failed {
    let error = Error::new(
        ErrorKind::Invalid,
        "this path doesn't take that method",
        "reads are GET; changes are POST, PUT or DELETE",
    );
    Failed { status: StatusCode::METHOD_NOT_ALLOWED, error }
}

impl FromRequestParts<Api> for Writer {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failed> {
        match parts.extensions.get::<Peer>() {
            Some(peer) if api.writers.contains(&peer.uid) => Ok(Self(format!("uid {}", peer.uid))),
            peer => {
                let who = peer.map_or("an unknown user".into(), |peer| format!("uid {}", peer.uid));
                let message = format!("{who} may look but not change anything");
                Err(Error::new(ErrorKind::Refused, message, "use sudo").into())
            }
        }
    }
}

/// An error as an HTTP answer.
struct Failed {
    status: StatusCode,
    error: Error,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let status = match error.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Refused => StatusCode::FORBIDDEN,
            ErrorKind::Unreachable | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error }
    }
}

impl From<BytesRejection> for Failed {
    fn from(rejection: BytesRejection) -> Self {
        let hint = format!("send at most {MAX_BODY} bytes, or {MAX_CONFIG} of configuration");
        let error = Error::new(ErrorKind::Invalid, rejection.body_text(), hint);
        Self { status: rejection.status(), error }
    }
}

impl From<PathRejection> for Failed {
    fn from(rejection: PathRejection) -> Self {
        let hint = "names are made of a-z, 0-9, '.', '_' and '-'";
        let error = Error::new(ErrorKind::Invalid, rejection.body_text(), hint);
        Self { status: rejection.status(), error }
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}
