//! Connections that stay: each asks again and again on one TCP connection, and reports when it breaks. What it sends
//! differs each time, and the answer must repeat it, so that a lost or doubled answer counts as a break, too.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    http::{Connection, Failure},
    namespace::Namespace,
};

#[derive(Clone, Debug)]
pub struct LongConnections {
    pub target: SocketAddr,
    pub count: usize,
    /// Between two requests of a connection.
    pub interval: Duration,
    pub timeout: Duration,
}

/// What became of one connection. It is not opened again after it broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionReport {
    pub local: Option<SocketAddr>,
    /// Who answered first; `None` if nobody ever did.
    pub backend: Option<String>,
    /// Another backend answered on the same connection, which must never happen.
    pub moved_to: Option<String>,
    pub requests: u64,
    /// The longest that an answer took.
    pub slowest: Duration,
    pub broken: Option<(Instant, Failure)>,
}

#[derive(Debug)]
pub struct RunningConnections {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<ConnectionReport>>>,
}

impl LongConnections {
    pub fn new(target: SocketAddr, count: usize) -> Self {
        let (interval, timeout) = (Duration::from_millis(50), Duration::from_secs(1));
        Self { target, count, interval, timeout }
    }

    pub fn start(&self, from: &Namespace) -> RunningConnections {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |_| {
            let (plan, from, stop) = (self.clone(), from.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                from.join_thread()?;
                Ok(plan.keep(&stop))
            })
        };
        RunningConnections { threads: (0..self.count).map(start).collect(), stop }
    }

    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn keep(&self, stop: &AtomicBool) -> ConnectionReport {
        let mut report = ConnectionReport {
            local: None,
            backend: None,
            moved_to: None,
            requests: 0,
            slowest: Duration::ZERO,
            broken: None,
        };
        if let Err(failure) = self.ask(stop, &mut report) {
            report.broken = Some((Instant::now(), failure));
        }
        report
    }

    fn ask(&self, stop: &AtomicBool, report: &mut ConnectionReport) -> Result<(), Failure> {
        let mut connection = Connection::open(self.target, self.timeout)?;
        report.local = connection.local_addr().ok();
        while !stop.load(Ordering::Relaxed) {
            let (sent, path) = (Instant::now(), format!("/echo/{}", report.requests));
            let answer = connection.get(&path)?.text()?;
            let Some((backend, _)) = answer.split_once(' ').filter(|(_, echo)| *echo == path)
            else {
                return Err(Failure::Other(format!("{path} was answered with {answer:?}")));
            };
            let backend = backend.to_owned();
            report.requests += 1;
            report.slowest = report.slowest.max(sent.elapsed());
            match &report.backend {
                None => report.backend = Some(backend),
                Some(first) if *first != backend => report.moved_to = Some(backend),
                Some(_) => {}
            }
            thread::sleep(self.interval);
        }
        Ok(())
    }
}

impl RunningConnections {
    /// Begins to stop them, which takes an interval: for several at once.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn stop(mut self) -> Result<Vec<ConnectionReport>> {
        self.end();
        self.threads
            .drain(..)
            .map(|thread| thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
            .collect()
    }
}

impl Drop for RunningConnections {
    fn drop(&mut self) {
        self.end();
    }
}
