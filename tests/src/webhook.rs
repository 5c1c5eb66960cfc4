//! A receiver of webhooks: keeps what it is sent, and answers as it is told to.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{namespace::Namespace, process::wait_until};

/// Ends when dropped.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// The status it answers with.
    status: AtomicU16,
    posts: Mutex<Vec<Post>>,
}

/// A request, as it came.
#[derive(Clone, Debug)]
pub struct Post {
    pub at: Instant,
    pub head: String,
    pub json: Value,
}

impl Webhook {
    /// On a port of `127.0.0.1` in a namespace.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let listener = namespace.enter(|| TcpListener::bind("127.0.0.1:0"))??;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            status: AtomicU16::new(204),
            posts: Mutex::new(Vec::new()),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            while !serving.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    // What a broken request was shows in what is missing.
                    Ok((stream, _)) => drop(serving.serve(stream)),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it answers from now on.
    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    /// All it was sent.
    pub fn posts(&self) -> Vec<Post> {
        self.shared.posts().clone()
    }

    /// Waits until it was sent this many, and returns them.
    pub fn wait_for(&self, posts: usize, limit: Duration) -> Result<Vec<Post>> {
        if !wait_until(limit, || self.shared.posts().len() >= posts) {
            bail!("not {posts} messages after {limit:?}: {:#?}", self.posts());
        }
        Ok(self.posts())
    }
}

/// What messages tell, an alert each: status, kind, subject.
pub fn said(posts: &[Post]) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for post in posts {
        let alerts = post.json["alerts"].as_array();
        for alert in alerts.with_context(|| format!("a message without alerts: {post:?}"))? {
            let words = ["status", "kind", "subject"].map(|key| alert[key].as_str());
            let words: Option<Vec<&str>> = words.into_iter().collect();
            said.push(words.with_context(|| format!("it says less: {alert}"))?.join(" "));
        }
    }
    Ok(said)
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn posts(&self) -> std::sync::MutexGuard<'_, Vec<Post>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut received = Vec::new();
        let (head, json) = loop {
            let mut chunk = [0; 16 * 1024];
            let length = stream.read(&mut chunk)?;
            received.extend_from_slice(&chunk[..length]);
            if let Some(whole) = parse(&received)? {
                break whole;
            }
            if length == 0 {
                bail!("it ended before it was whole");
            }
        };
        self.posts().push(Post { at: Instant::now(), head, json });
        let status = self.status.load(Ordering::Relaxed);
        write!(stream, "HTTP/1.1 {status} Said\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        Ok(())
    }
}

/// Head and body, when both are whole.
fn parse(received: &[u8]) -> Result<Option<(String, Value)>> {
    let text = std::str::from_utf8(received)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .find_map(|(_, value)| value.trim().parse::<usize>().ok());
    match body.len() >= length.context("it has no length")? {
        true => Ok(Some((head.to_owned(), serde_json::from_str(body)?))),
        false => Ok(None),
    }
}
