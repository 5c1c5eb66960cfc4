//! Clients that ask every contender, however long answers take: one request after so many milliseconds.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lb_tests::Namespace;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::{MissedTickBehavior, interval, timeout},
};

/// From one request to a contender to the next.
pub(super) const PERIOD: Duration = Duration::from_millis(10);
/// An answer that takes longer is none. Less than TCP's first retransmission: each SYN is a connection.
pub(super) const PATIENCE: Duration = Duration::from_millis(900);

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Which of the targets.
    pub(super) target: usize,
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) is_answered: bool,
}

/// They stop when this is dropped.
pub(super) struct Clients {
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Clients {
    pub(super) fn start(from: &Namespace, targets: Vec<SocketAddr>) -> Self {
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (stop, stopped) = oneshot::channel();
        let (namespace, log) = (from.clone(), Arc::clone(&asked));
        let thread = thread::spawn(move || {
            namespace.join_thread()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("no runtime for clients")?.block_on(async {
                for (target, address) in targets.into_iter().enumerate() {
                    tokio::spawn(ask_on(target, address, Arc::clone(&log)));
                }
                // An error is the same: nobody wants more.
                let _ = stopped.await;
            });
            Ok(())
        });
        Self { asked, stop: Some(stop), thread: Some(thread) }
    }

    /// Requests that have ended since it was asked last.
    pub(super) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(Ok(Err(why))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("clients: {why:#}");
        }
    }
}

async fn ask_on(target: usize, address: SocketAddr, log: Arc<Mutex<Vec<Asked>>>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let started = Instant::now();
            let is_answered = matches!(timeout(PATIENCE, ask(address)).await, Ok(Ok(true)));
            let asked = Asked { target, started, ended: Instant::now(), is_answered };
            log.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        });
    }
}

/// Whether the answer is the page.
async fn ask(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::with_capacity(512);
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}
