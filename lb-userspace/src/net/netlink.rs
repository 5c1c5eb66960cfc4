//! Questions to the kernel over one netlink socket.
//!
//! Notifications have a socket of their own: an overrun there must not swallow an answer here.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt, pin_mut};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::tc::TcHandle;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::facts::{Link, Links, Neighbour, Route};

/// The kernel answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where a `clsact` sits on an interface (`linux/pkt_sched.h`).
const TC_H_CLSACT: u32 = 0xffff_fff1;
/// Room for a burst of notifications; beyond it everything is read anew.
const EVENT_BUFFER: usize = 1 << 20;

/// An open socket; its work ends when this is dropped.
pub(super) struct Netlink {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    pub(super) async fn links(&self) -> io::Result<Links> {
        let messages = self.handle.link().get().execute().try_collect::<Vec<_>>();
        let messages = answered(messages).await?;
        Ok(messages.iter().map(Link::from).map(|link| (link.ifindex, link)).collect())
    }

    pub(super) async fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let messages = self.handle.address().get().execute().try_collect::<Vec<_>>();
        Ok(answered(messages).await?.iter().filter_map(super::facts::own_address).collect())
    }

    /// The route to `destination`; `None` where there is none.
    pub(super) async fn route(&self, destination: IpAddr) -> io::Result<Option<Route>> {
        let bits = if destination.is_ipv4() { 32 } else { 128 };
        let question = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination, bits)
            .map_err(io::Error::other)?
            .build();
        let mut answers = Box::pin(self.handle.route().get(question).execute());
        match answered(answers.try_next()).await {
            Ok(message) => Ok(message.as_ref().and_then(Route::read)),
            // Unreachable, prohibited, thrown: each has its own errno, and all lead nowhere.
            Err(error) if error.raw_os_error().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn neighbour(&self, ifindex: u32, address: IpAddr) -> io::Result<Neighbour> {
        let mut question = NeighbourMessage::default();
        question.header.ifindex = ifindex;
        (question.header.family, question.attributes) = match address {
            IpAddr::V4(v4) => (
                AddressFamily::Inet,
                vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(v4))],
            ),
            IpAddr::V6(v6) => (
                AddressFamily::Inet6,
                vec![NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6))],
            ),
        };
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(question));
        message.header.flags = NLM_F_REQUEST;
        let mut handle = self.handle.clone();
        let mut answers = handle.request(message).map_err(failed)?;
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await?;
        match answer.map(|message| message.payload) {
            Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message))) => {
                Ok(Neighbour::read(&message))
            }
            // ENOENT: not in the table. ENODEV: the interface went away meanwhile.
            Some(NetlinkPayload::Error(_)) => Ok(Neighbour::Absent),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Takes the `clsact` of an interface off, unless there are filters in it.
    pub(super) async fn remove_idle_clsact(&self, ifindex: u32) -> io::Result<()> {
        let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
        let filters = || self.handle.traffic_filter(ifindex).get();
        for there in [filters().ingress(), filters().egress()] {
            if !answered(there.execute().try_collect::<Vec<_>>()).await?.is_empty() {
                return Ok(());
            }
        }
        let mut request = self.handle.qdisc().del(ifindex);
        request.message_mut().header.parent = TcHandle::from(TC_H_CLSACT);
        answered(request.execute()).await
    }

    /// Makes the kernel look for the neighbour, or confirm it, as if a packet were sent to it.
    pub(super) async fn warm(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let request = self.handle.neighbours().add(ifindex, address);
        let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        answered(request.execute()).await
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Notifications of everything a next hop depends on.
pub(super) struct Notices {
    messages: std::pin::Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send>>,
    task: JoinHandle<()>,
}

impl Notices {
    pub(super) fn open() -> io::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (mut connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        connection.socket_mut().socket_mut().set_rx_buf_sz(EVENT_BUFFER)?;
        let task = tokio::spawn(async move {
            // The connection ends with its handle; this one is kept as long as it runs.
            let _handle = handle;
            connection.await;
        });
        let messages = messages.map(|(message, _)| message);
        Ok(Self { messages: Box::pin(messages), task })
    }

    /// The next one; `None` when the socket is broken.
    pub(super) async fn next(&mut self) -> Option<NetlinkPayload<RouteNetlinkMessage>> {
        self.messages.next().await.map(|message| message.payload)
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits for an answer; an error of the kernel keeps its errno.
async fn answered<T>(answer: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
    pin_mut!(answer);
    tokio::time::timeout(PATIENCE, answer).await?.map_err(failed)
}

fn failed(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
