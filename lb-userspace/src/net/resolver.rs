//! Follows the next hop of every server and says when it changes.
//!
//! Level-triggered: a notification only says *what to read again*; the answer always comes from
//! asking the kernel. Subscribed before the first question, so nothing falls in between. Bursts
//! are gathered for [`GATHER`]; everything is read anew every [`REFRESH`], and whenever
//! notifications were lost.
//!
//! Neighbours are kept warm: asked for when missing, confirmed when stale. A MAC that was good
//! stays the answer until the kernel gives up on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use super::devices;
use super::facts::{self, Link, Links, Neighbour};
use super::hop::{self, HopProblem, NextHop, Towards, Way};
use super::netlink::{Netlink, Notices};

#[cfg(test)]
mod tests;

const GATHER: Duration = Duration::from_millis(20);
const REFRESH: Duration = Duration::from_secs(30);
/// Between two searches for a neighbour that does not answer, and after an error of netlink.
const RETRY: Duration = Duration::from_secs(1);
/// Between two confirmations of a stale neighbour; shorter than [`REFRESH`], which triggers them.
const CONFIRM: Duration = Duration::from_secs(25);
/// How long a neighbour never seen before may take before that is reported: the kernel asks once
/// a second, and one lost question is no problem yet.
const GRACE: Duration = Duration::from_millis(1500);
/// Answers waiting for the reader; beyond it the resolver waits too.
const QUEUE: usize = 256;

/// A server's next hop, or why it has none, as it is from now on.
///
/// An event of a server may still be in the channel when the server is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHopEvent {
    pub server: IpAddr,
    pub hop: Result<NextHop, HopProblem>,
}

/// The resolver's task; it ends when this is dropped.
#[derive(Debug)]
pub struct Resolver {
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

impl Resolver {
    /// Starts in the network namespace of the calling thread, on its runtime, with no servers.
    /// `interfaces` are the names in the configuration: next hops leave by their devices.
    pub fn start(
        interfaces: impl IntoIterator<Item = String>,
    ) -> io::Result<(Self, mpsc::Receiver<NextHopEvent>)> {
        let (commands, requests) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::channel(QUEUE);
        let worker = Worker {
            notices: Some(Notices::open()?),
            netlink: Netlink::open()?,
            allowed: interfaces.into_iter().collect(),
            links: Links::new(),
            attached: BTreeSet::new(),
            servers: BTreeMap::new(),
            work: Work { links: true, ..Work::default() },
            refresh_at: Instant::now() + REFRESH,
            events,
        };
        let task = tokio::spawn(worker.run(requests));
        Ok((Self { commands, task }, receiver))
    }

    /// Follows one more server; its first event comes within some milliseconds.
    pub fn add(&self, server: IpAddr) {
        self.command(Command::Add(server));
    }

    pub fn remove(&self, server: IpAddr) {
        self.command(Command::Remove(server));
    }

    pub fn set_interfaces(&self, interfaces: impl IntoIterator<Item = String>) {
        self.command(Command::Allow(interfaces.into_iter().collect()));
    }

    fn command(&self, command: Command) {
        // The task ends early only when nobody reads its events any more.
        let _ = self.commands.send(command);
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
enum Command {
    Add(IpAddr),
    Remove(IpAddr),
    Allow(BTreeSet<String>),
}

struct Worker {
    netlink: Netlink,
    /// `None` while it must be opened again.
    notices: Option<Notices>,
    allowed: BTreeSet<String>,
    links: Links,
    /// Indices of the devices that the allowed names stand for.
    attached: BTreeSet<u32>,
    servers: BTreeMap<IpAddr, Server>,
    work: Work,
    refresh_at: Instant,
    events: mpsc::Sender<NextHopEvent>,
}

/// What must be read again.
#[derive(Default)]
struct Work {
    links: bool,
    servers: BTreeSet<IpAddr>,
    due: Option<Instant>,
}

impl Work {
    fn add(&mut self, servers: impl IntoIterator<Item = IpAddr>) {
        self.servers.extend(servers);
        if self.links || !self.servers.is_empty() {
            self.due.get_or_insert_with(|| Instant::now() + GATHER);
        }
    }
}

/// What is known of one server.
#[derive(Default)]
struct Server {
    /// What was told last.
    answer: Option<Result<NextHop, HopProblem>>,
    /// Where the route leads, as far as there is one.
    way: Option<Way>,
    /// The route's interface at the last good answer by frames.
    last_interface: Option<u32>,
    /// Since when its neighbour is being asked for with nothing to say meanwhile.
    asked_since: Option<Instant>,
    warmed_at: Option<Instant>,
    again_at: Option<Instant>,
}

impl Worker {
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Command>) {
        loop {
            let due = self.due();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.obey(request),
                    None => return,
                },
                notice = next_notice(&mut self.notices) => self.note(notice),
                () = tokio::time::sleep_until(due) => {
                    if let Err(error) = self.catch_up().await {
                        self.start_over(&error);
                    }
                }
                () = self.events.closed() => return,
            }
        }
    }

    fn due(&self) -> Instant {
        let again = self.servers.values().filter_map(|server| server.again_at).min();
        let due = [self.work.due, again].into_iter().flatten().min();
        due.map_or(self.refresh_at, |due| due.min(self.refresh_at))
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(address) => {
                self.servers.entry(address).or_default();
                self.work.add([address]);
            }
            Command::Remove(address) => {
                self.servers.remove(&address);
                self.work.servers.remove(&address);
            }
            Command::Allow(names) => {
                self.allowed = names;
                self.work.add(self.servers.keys().copied());
            }
        }
    }

    /// Marks what a notification concerns.
    fn note(&mut self, notice: Option<NetlinkPayload<RouteNetlinkMessage>>) {
        use RouteNetlinkMessage as Message;
        let message = match notice {
            Some(NetlinkPayload::InnerMessage(message)) => message,
            Some(NetlinkPayload::Overrun(_)) => return self.read_all_again(),
            Some(_) => return,
            None => {
                warn!("the netlink socket for notifications broke; opening it again");
                self.notices = None;
                return self.read_all_again();
            }
        };
        match message {
            Message::NewLink(message) if self.is_news(&message) => self.read_all_again(),
            Message::DelLink(_) => self.read_all_again(),
            Message::NewNeighbour(message) | Message::DelNeighbour(message) => {
                let key = facts::neighbour_key(&message);
                let uses = |server: &Server| {
                    server.way.as_ref().is_some_and(|way| Some((way.ifindex, way.neighbour)) == key)
                };
                let servers = self.servers.iter().filter(|(_, server)| uses(server));
                self.work.add(servers.map(|(address, _)| *address));
            }
            Message::NewRoute(message) | Message::DelRoute(message) => {
                let servers = self.servers.keys().copied();
                self.work.add(servers.filter(|server| facts::route_covers(&message, *server)));
            }
            Message::NewAddress(_)
            | Message::DelAddress(_)
            | Message::NewRule(_)
            | Message::DelRule(_) => self.work.add(self.servers.keys().copied()),
            _ => {}
        }
    }

    /// Whether any fact of a link changed; most notifications are about others, as statistics.
    fn is_news(&self, message: &LinkMessage) -> bool {
        // A bridge tells of its ports' states in messages of its own, with less in them.
        message.header.interface_family == AddressFamily::Unspec
            && self.links.get(&message.header.index) != Some(&Link::from(message))
    }

    fn read_all_again(&mut self) {
        self.work.links = true;
        self.work.add(self.servers.keys().copied());
    }

    /// Reads what is due and tells what changed.
    async fn catch_up(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.refresh_at <= now {
            self.refresh_at = now + REFRESH;
            self.read_all_again();
        }
        if self.notices.is_none() {
            self.notices = Some(Notices::open()?);
            self.read_all_again();
        }
        let mut work = std::mem::take(&mut self.work);
        if work.links {
            self.links = self.netlink.links().await?;
        }
        self.attached = devices::attached(&self.allowed, &self.links);
        let again = |server: &Server| server.again_at.is_some_and(|at| at <= now);
        let retries = self.servers.iter().filter(|(_, server)| again(server));
        work.servers.extend(retries.map(|(address, _)| *address));
        for address in work.servers {
            self.resolve(address).await?;
        }
        Ok(())
    }

    fn start_over(&mut self, error: &io::Error) {
        warn!(%error, "cannot ask the kernel for next hops; trying again");
        match Netlink::open() {
            Ok(netlink) => self.netlink = netlink,
            Err(error) => warn!(%error, "cannot open a netlink socket"),
        }
        self.read_all_again();
        self.work.due = Some(Instant::now() + RETRY);
    }

    async fn resolve(&mut self, address: IpAddr) -> io::Result<()> {
        let Some(server) = self.servers.get_mut(&address) else { return Ok(()) };
        let route = self.netlink.route(address).await?;
        let last = server.last_interface;
        server.again_at = None;
        let towards = hop::towards(address, route.as_ref(), &self.links, &self.attached, last);
        let answer = match towards {
            Err(problem) => server.settled(Err(problem)),
            Ok(Towards::Here) => server.settled(Ok(NextHop::Local)),
            Ok(Towards::Neighbour(way)) => {
                let neighbour = self.netlink.neighbour(way.ifindex, way.neighbour).await?;
                if server.wants_warming(neighbour) {
                    // Refused where the interface has just gone: its notification is on the way.
                    let _ = self.netlink.warm(way.ifindex, way.neighbour).await;
                }
                server.answer(way, neighbour)
            }
        };
        if let (Some(Ok(_)), Some(way)) = (&answer, &server.way) {
            server.last_interface = Some(way.ifindex);
        }
        if answer.is_none() || answer == server.answer {
            return Ok(());
        }
        server.answer.clone_from(&answer);
        if let Some(hop) = answer {
            // A closed channel ends the loop at its next turn.
            let _ = self.events.send(NextHopEvent { server: address, hop }).await;
        }
        Ok(())
    }
}

impl Server {
    /// Whether it is time to make the kernel look for the neighbour; if so, notes that it was done.
    fn wants_warming(&mut self, neighbour: Neighbour) -> bool {
        let pause = match neighbour {
            Neighbour::Absent | Neighbour::Failed => RETRY,
            Neighbour::Known { stale: true, .. } => CONFIRM,
            Neighbour::Known { stale: false, .. } | Neighbour::Pending => return false,
        };
        let wanted = self.warmed_at.is_none_or(|at| at.elapsed() >= pause);
        if wanted {
            self.warmed_at = Some(Instant::now());
        }
        wanted
    }

    /// An answer that needs no neighbour.
    fn settled(
        &mut self,
        answer: Result<NextHop, HopProblem>,
    ) -> Option<Result<NextHop, HopProblem>> {
        (self.way, self.asked_since) = (None, None);
        Some(answer)
    }

    /// The answer by `way`, with what to say while the neighbour is being asked for.
    fn answer(&mut self, way: Way, neighbour: Neighbour) -> Option<Result<NextHop, HopProblem>> {
        let now = Instant::now();
        let answer = hop::hop(&way, neighbour).or_else(|| self.meanwhile(&way, now));
        if answer.is_some() {
            self.asked_since = None;
        }
        self.again_at = match (&answer, neighbour) {
            (None, _) => Some(now + GRACE),
            (Some(Err(_)), _) | (_, Neighbour::Absent | Neighbour::Pending) => Some(now + RETRY),
            (Some(Ok(_)), _) => None,
        };
        self.way = Some(way);
        answer
    }

    fn meanwhile(&mut self, way: &Way, now: Instant) -> Option<Result<NextHop, HopProblem>> {
        match &self.answer {
            Some(Ok(NextHop::Remote(known)))
                if self.way.as_ref().is_some_and(|old| old.same_neighbour(way)) =>
            {
                let mac = known.destination_mac;
                hop::hop(way, Neighbour::Known { mac, stale: true })
            }
            Some(Err(HopProblem::NoNeighbour { .. })) => Some(Err(hop::no_neighbour(way))),
            _ => {
                let since = *self.asked_since.get_or_insert(now);
                (now - since >= GRACE).then(|| Err(hop::no_neighbour(way)))
            }
        }
    }
}

async fn next_notice(notices: &mut Option<Notices>) -> Option<NetlinkPayload<RouteNetlinkMessage>> {
    match notices {
        Some(notices) => notices.next().await,
        None => std::future::pending().await,
    }
}
