//! The one door into the control loop: requests with a place for the answer.
//!
//! The API and the signal handlers hold a [`Handle`]; the loop owns all state and answers in order.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::config::model::{Backend, Config, Prefix, Protocol};
use crate::report::{AlertTest, Alerts, Block, Changed, Error, ErrorKind, Explanation, Status};

/// Who asked: `uid 1000`, `signal`, `file`.
pub type Actor = String;

#[derive(Debug)]
pub enum Request {
    Status(Reply<Status>),
    /// The configuration in force, with what the CLI changed.
    Config(Reply<Config>),
    Apply {
        config: Box<Config>,
        actor: Actor,
        reply: Reply<Changed>,
    },
    /// Read the configuration file again (SIGHUP).
    Reload {
        actor: Actor,
        reply: Reply<Changed>,
    },
    Backend {
        service: String,
        change: BackendChange,
        /// Even if too few would be left.
        force: bool,
        actor: Actor,
        reply: Reply<Changed>,
    },
    /// Keep health from acting, on one service or on all, for a time.
    Freeze {
        service: Option<String>,
        reason: Option<String>,
        lasts: Duration,
        actor: Actor,
        reply: Reply<Changed>,
    },
    /// Let it act again.
    Thaw {
        service: Option<String>,
        actor: Actor,
        reply: Reply<Changed>,
    },
    /// The block list.
    Blocks(Reply<Vec<Block>>),
    Block {
        change: BlockChange,
        actor: Actor,
        reply: Reply<Changed>,
    },
    /// What is wrong, and who was told.
    Alerts(Reply<Alerts>),
    /// A test message to every target.
    AlertTest(Reply<Vec<AlertTest>>),
    Explain {
        protocol: Protocol,
        client: SocketAddr,
        vip: SocketAddr,
        reply: Reply<Explanation>,
    },
}

#[derive(Debug)]
pub enum BackendChange {
    Add(Backend),
    Remove {
        name: String,
    },
    Weight {
        name: String,
        weight: u16,
    },
    /// Take it out: drained, or in maintenance.
    Drain {
        name: String,
        reason: Option<String>,
        /// When it is to be taken back; nobody is by himself.
        lasts: Option<Duration>,
        maintenance: bool,
    },
    Ready {
        name: String,
    },
}

#[derive(Debug)]
pub enum BlockChange {
    Add {
        prefix: Prefix,
        reason: Option<String>,
        /// How long; for good if not given.
        lasts: Option<Duration>,
        /// This host's addresses, which it must not hold; `None` where anything goes.
        local: Option<BTreeSet<IpAddr>>,
    },
    Remove {
        prefix: Prefix,
    },
}

pub type Reply<T> = oneshot::Sender<Result<T, Error>>;

#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Request>);

impl Handle {
    /// A handle, and the end the loop reads.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), receiver)
    }

    /// Sends the request that `make` builds around a reply and waits for the answer.
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let gone = || Error {
            kind: ErrorKind::Internal,
            message: "the daemon is shutting down".into(),
            hint: Some("start it again with `lb run`".into()),
        };
        let (reply, answer) = oneshot::channel();
        self.0.send(make(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
