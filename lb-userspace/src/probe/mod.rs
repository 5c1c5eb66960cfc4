//! Active health probes: one question to one backend, and the task that keeps asking.
//!
//! Everything is a future on the caller's runtime; no probe blocks a thread or another probe. What
//! a server answers is bounded in size and time and never trusted. A probe's socket is closed with
//! a reset, so that thousands of probes leave no `TIME_WAIT` behind.

mod connect;
mod http;
mod prober;
#[cfg(test)]
mod tests;
mod way;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::Probe;
pub use crate::control::health::{Failure, FailureKind, ProbeResult, Success};
pub use prober::{BATCH, Key, ProbeEvent, Prober};
use way::Passage;
pub use way::{Way, probe_by_way};

/// Asks `target` once; `timeout` covers connecting and the answer together.
pub async fn probe(target: SocketAddr, probe: &Probe, timeout: Duration) -> ProbeResult {
    let started = Instant::now();
    let limit = Limit { deadline: started + timeout, timeout };
    ask(target, None, probe, limit).await?;
    Ok(Success { latency: started.elapsed() })
}

/// The question itself; through `passage`, if there is one.
async fn ask(
    target: SocketAddr,
    passage: Option<&Passage<'_>>,
    probe: &Probe,
    limit: Limit,
) -> Result<(), Failure> {
    match probe {
        Probe::None => {}
        Probe::Tcp => drop(connect::connect(target, passage, limit).await?),
        Probe::Http { path, host, status } => {
            let stream = connect::connect(target, passage, limit).await?;
            let question = http::Question { target, path, host: host.as_deref(), status };
            question.ask(stream, limit).await?;
        }
    }
    Ok(())
}

/// When the whole probe must have ended, and the timeout it comes from (for the text).
#[derive(Clone, Copy)]
struct Limit {
    deadline: Instant,
    timeout: Duration,
}

impl Limit {
    /// Waits for `step`; when time runs out the failure says `silence`, e.g. `no answer from X`.
    async fn wait<T>(
        self,
        step: impl Future<Output = T>,
        silence: impl FnOnce() -> String,
    ) -> Result<T, Failure> {
        tokio::time::timeout_at(self.deadline, step).await.map_err(|_| {
            let detail = format!("{} within {} ms", silence(), self.timeout.as_millis());
            Failure::new(FailureKind::Timeout, detail)
        })
    }
}
