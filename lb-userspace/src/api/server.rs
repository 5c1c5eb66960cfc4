//! Accepts connections and bounds what each may cost: time, number, and one request apiece.

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::routes::{Peer, router};
use super::socket::Listener;
use crate::control::handle::Handle;

const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// For a connection as a whole, so that a slow body can't hold its place for ever.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// For answers under way when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves until `shutdown` is done, then finishes what is under way and removes the socket.
pub async fn serve(listener: Listener, handle: Handle, shutdown: impl Future<Output = ()>) {
    let router = router(handle, &listener.writers);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => {
                if let Some((stream, place)) = accepted {
                    connections.spawn(connection(stream, router.clone(), place));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    // Before the file goes: a new daemon may already wait for the lock.
    if let Err(error) = std::fs::remove_file(&listener.path) {
        tracing::debug!(%error, "removing the socket");
    }
    drop(listener);
    let _ = timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
}

async fn accept(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> Option<(UnixStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.socket.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            // Out of file descriptors, most likely: they come back, a busy loop doesn't help.
            tracing::warn!(%error, "can't accept a connection on the API socket");
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection(stream: UnixStream, router: Router, place: OwnedSemaphorePermit) {
    let peer = match stream.peer_cred() {
        Ok(credentials) => Peer { uid: credentials.uid() },
        Err(error) => {
            tracing::warn!(%error, "the kernel doesn't say who connected; closing");
            return;
        }
    };
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "API connection"),
        Err(_) => tracing::debug!("API connection timed out"),
    }
    drop(place);
}
