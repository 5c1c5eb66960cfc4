//! Asks for each name again and again, each in a task of its own.
//!
//! What the machine itself asks: `/etc/hosts`, then the servers of `/etc/resolv.conf`, both read for
//! each question, so that a change of either counts from the next one on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::{DnsError, NetError};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::known::no_address;
use super::{Answer, ask_again_in};
use crate::config::model::{Family, Lookup};

/// A question that is not answered by then has failed.
const LIMIT: Duration = Duration::from_secs(5);
/// Questions under way at once.
const AT_ONCE: usize = 64;
/// Answers waiting for the control loop; beyond it, asking waits too.
const QUEUE: usize = 256;

/// The tasks. Dropping it ends them.
#[derive(Debug)]
pub struct Follower {
    tasks: HashMap<Lookup, AbortHandle>,
    answers: mpsc::Sender<(Lookup, Answer)>,
    at_once: Arc<Semaphore>,
}

impl Follower {
    /// One that follows nothing yet, and the end that answers come out of.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<(Lookup, Answer)>) {
        let (answers, receiver) = mpsc::channel(QUEUE);
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        (Self { tasks: HashMap::new(), answers, at_once }, receiver)
    }

    /// Follows just these; those that are new are asked for at once. Must be used on a runtime.
    pub fn follow<'a>(&mut self, wanted: impl Iterator<Item = &'a Lookup>) {
        let mut former = std::mem::take(&mut self.tasks);
        for lookup in wanted {
            let task = former.remove(lookup).unwrap_or_else(|| self.begin(lookup.clone()));
            self.tasks.insert(lookup.clone(), task);
        }
        former.values().for_each(AbortHandle::abort);
    }

    fn begin(&self, lookup: Lookup) -> AbortHandle {
        let (answers, at_once) = (self.answers.clone(), Arc::clone(&self.at_once));
        let follow = async move {
            loop {
                let permit = at_once.acquire().await;
                let asked = tokio::time::timeout(LIMIT, ask(&lookup)).await;
                drop(permit);
                let silence = || format!("does not resolve: no DNS answer within {LIMIT:?}");
                let (answer, wait) = match asked.unwrap_or_else(|_| Err(silence())) {
                    Ok((addresses, time_to_live)) => (Ok(addresses), Some(time_to_live)),
                    Err(why) => (Err(why), None),
                };
                if answers.send((lookup.clone(), answer)).await.is_err() {
                    return;
                }
                tokio::time::sleep(ask_again_in(wait)).await;
            }
        };
        tokio::spawn(follow).abort_handle()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

/// A name's addresses and how long they are good, or why there are none.
async fn ask(lookup: &Lookup) -> Result<(Vec<IpAddr>, Duration), String> {
    let strategy = match lookup.family {
        Family::Ipv4 => LookupIpStrategy::Ipv4Only,
        Family::Ipv6 => LookupIpStrategy::Ipv6Only,
    };
    let resolver = tokio::task::spawn_blocking(move || {
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        (options.ip_strategy, options.cache_size) = (strategy, 0);
        builder.build()
    });
    let resolver = resolver.await.map_err(|error| format!("was not asked for: {error}"))?;
    let resolver =
        resolver.map_err(|error| format!("was not asked for: /etc/resolv.conf: {error}"))?;
    match resolver.lookup_ip(lookup.host.as_str()).await {
        Ok(found) => {
            let left = found.valid_until().saturating_duration_since(Instant::now());
            Ok((found.iter().collect(), left))
        }
        Err(error) => Err(failure(&error, lookup.family)),
    }
}

/// A clause whose subject is the name.
fn failure(error: &NetError, family: Family) -> String {
    match error {
        error if error.is_nx_domain() => "does not resolve: NXDOMAIN".into(),
        NetError::Dns(DnsError::NoRecordsFound(_)) => no_address(family).into(),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("does not resolve: {code}"),
        NetError::Timeout => "does not resolve: no DNS server answers".into(),
        other => format!("does not resolve: {other}"),
    }
}
