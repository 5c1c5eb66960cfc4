//! Active health probes: one question to one backend, and the task that keeps asking.
//!
//! Everything is a future on the caller's runtime; no probe blocks a thread or another probe. What
//! a server answers is bounded in size and time and never trusted. A probe's socket is closed with
//! a reset, so that thousands of probes leave no `TIME_WAIT` behind.

mod asked;
mod cause;
mod connect;
mod datagram;
mod dns;
mod excerpt;
mod exec;
mod grpc;
mod http;
mod icmp;
mod prober;
mod self_test;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod way;

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tokio::time::Instant;

pub use crate::control::health::{Failure, FailureKind, ProbeResult, Success};
pub use asked::Asked;
pub use prober::{BATCH, Key, ProbeEvent, Prober};
pub use self_test::self_test;
pub use target::Target;
pub use tls::Configs;
pub use way::{Way, probe_by_way};

/// Asks `target` once; `timeout` covers connecting and the answer together.
pub async fn probe(target: &Target, asked: &Asked, timeout: Duration) -> ProbeResult {
    let started = Instant::now();
    asked.ask(target, None, Limit { deadline: started + timeout, timeout }).await?;
    Ok(Success { latency: started.elapsed() })
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

/// For spreading load and telling answers apart, not for secrets.
fn random() -> u64 {
    // Every `RandomState` has new keys, so the hash of nothing is a fresh random number.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
