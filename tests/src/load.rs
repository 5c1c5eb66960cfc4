//! Load: one TCP connection and one HTTP request after the other, on several threads, each request recorded.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    http::{Connection, Failure},
    namespace::Namespace,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Requests(u64),
    For(Duration),
    UntilStopped,
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Load {
    pub target: SocketAddr,
    pub path: String,
    pub threads: usize,
    /// For the connection, and again for the answer.
    pub timeout: Duration,
    /// Pause of each thread after a request.
    pub pause: Duration,
    pub limit: Limit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend's name, as it said itself.
    Served(String),
    Failed(Failure),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub started: Instant,
    pub latency: Duration,
    pub outcome: Outcome,
}

impl Request {
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }

    pub fn ended(&self) -> Instant {
        self.started + self.latency
    }
}

#[derive(Debug)]
pub struct RunningLoad {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    load: Load,
    started: Instant,
    stop: AtomicBool,
    begun: AtomicU64,
    requests: Mutex<Vec<Request>>,
}

impl Load {
    /// 16 threads without pause, a second's timeout.
    pub fn new(target: SocketAddr, limit: Limit) -> Self {
        let timeout = Duration::from_secs(1);
        Self { target, path: "/".into(), threads: 16, timeout, pause: Duration::ZERO, limit }
    }

    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts sending from a namespace.
    pub fn start(self, from: &Namespace) -> RunningLoad {
        let threads = self.threads;
        let shared = Arc::new(Shared {
            load: self,
            started: Instant::now(),
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            requests: Mutex::default(),
        });
        let start = |_| {
            let (shared, namespace) = (Arc::clone(&shared), from.clone());
            thread::spawn(move || {
                namespace.join_thread()?;
                shared.send();
                Ok(())
            })
        };
        RunningLoad { threads: (0..threads).map(start).collect(), shared }
    }

    /// Sends all of it; not for `Limit::UntilStopped`.
    pub fn run(self, from: &Namespace) -> Result<Report> {
        self.start(from).join()
    }
}

impl RunningLoad {
    /// What has ended so far.
    pub fn so_far(&self) -> Report {
        Report { requests: self.shared.requests().clone() }
    }

    pub fn stop(self) -> Result<Report> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(mut self) -> Result<Report> {
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
        }
        let mut requests = std::mem::take(&mut *self.shared.requests());
        requests.sort_by_key(|request| request.started);
        Ok(Report { requests })
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn send(&self) {
        while !self.done() {
            let request = self.load.request();
            self.requests().push(request);
            if !self.load.pause.is_zero() {
                thread::sleep(self.load.pause);
            }
        }
    }

    fn done(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return true;
        }
        match self.load.limit {
            Limit::Requests(most) => self.begun.fetch_add(1, Ordering::Relaxed) >= most,
            Limit::For(time) => self.started.elapsed() >= time,
            Limit::UntilStopped => false,
        }
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    fn request(&self) -> Request {
        let started = Instant::now();
        let answer = Connection::open(self.target, self.timeout)
            .and_then(|connection| connection.get_and_close(&self.path))
            .and_then(|response| response.text());
        let outcome = match answer {
            Ok(backend) => Outcome::Served(backend),
            Err(failure) => Outcome::Failed(failure),
        };
        Request { started, latency: started.elapsed(), outcome }
    }
}

/// All requests, in the order they were started.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub requests: Vec<Request>,
}

impl Report {
    pub fn served_by(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for request in &self.requests {
            if let Outcome::Served(backend) = &request.outcome {
                *counts.entry(backend.clone()).or_default() += 1;
            }
        }
        counts
    }

    pub fn failures(&self) -> usize {
        self.requests.iter().filter(|request| request.failed()).count()
    }

    /// How often each kind of failure was seen.
    pub fn failure_kinds(&self) -> BTreeMap<Failure, u64> {
        let mut counts = BTreeMap::new();
        for request in &self.requests {
            if let Outcome::Failed(failure) = &request.outcome {
                *counts.entry(failure.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// Failed requests that were started in `from..to`.
    pub fn failures_started(&self, from: Instant, to: Instant) -> usize {
        let started = |request: &&Request| (from..to).contains(&request.started);
        self.requests.iter().filter(started).filter(|request| request.failed()).count()
    }

    /// When the last failed request was started.
    pub fn last_failure(&self) -> Option<Instant> {
        self.requests.iter().filter(|request| request.failed()).map(|request| request.started).max()
    }

    /// When a backend first answered a request started at or after `since`.
    pub fn first_served_by(&self, backend: &str, since: Instant) -> Option<Instant> {
        let served = |r: &&Request| matches!(&r.outcome, Outcome::Served(name) if name == backend);
        self.requests
            .iter()
            .filter(|request| request.started >= since)
            .filter(served)
            .map(Request::ended)
            .min()
    }

    /// The longest time between two answered requests.
    pub fn longest_gap(&self) -> Duration {
        let mut ends: Vec<_> =
            self.requests.iter().filter(|r| !r.failed()).map(Request::ended).collect();
        ends.sort();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_counts_by_backend_and_by_window() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let request =
            |ms, outcome| Request { started: at(ms), latency: Duration::from_millis(1), outcome };
        let report = Report {
            requests: vec![
                request(0, Outcome::Served("a".into())),
                request(10, Outcome::Failed(Failure::Refused)),
                request(20, Outcome::Failed(Failure::Timeout)),
                request(50, Outcome::Served("b".into())),
            ],
        };
        assert_eq!(report.served_by(), BTreeMap::from([("a".into(), 1), ("b".into(), 1)]));
        assert_eq!(report.failures(), 2);
        assert_eq!(report.failures_started(at(0), at(20)), 1, "the end is not in the window");
        assert_eq!(report.last_failure(), Some(at(20)));
        assert_eq!(report.first_served_by("b", at(10)), Some(at(51)));
        assert_eq!(report.first_served_by("a", at(10)), None);
        assert_eq!(report.longest_gap(), Duration::from_millis(50));
    }
}
