//! The packet sockets, and the tasks that read them.
//!
//! Packet sockets, as the messages are addressed to tunnels' sources, which the kernel may not
//! know. They see what the XDP program passes, by whichever interface it comes: the way back may
//! differ from the way there.

use std::io::{self, Read};
use std::mem::size_of;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::filter::{self, SNAP};
use super::{Said, message};

/// Messages waiting for the reader; beyond it they wait in the sockets, and are lost when those
/// are full. Routers repeat them for every packet that is too big.
const QUEUE: usize = 64;
const RETRY: Duration = Duration::from_secs(1);

/// Hears these messages; it ends when this is dropped.
#[derive(Debug)]
pub struct PathMtuListener {
    tasks: [JoinHandle<()>; 2],
}

impl PathMtuListener {
    /// Starts in the network namespace of the calling thread, on its runtime. `gue_port` is the UDP
    /// port on servers that GUE packets go to.
    ///
    /// Fails without the right to open packet sockets (`CAP_NET_RAW`).
    pub fn start(gue_port: u16) -> io::Result<(Self, mpsc::Receiver<Said>)> {
        let (events, receiver) = mpsc::channel(QUEUE);
        let v4 = open(libc::ETH_P_IP, &filter::v4())?;
        let v6 = open(libc::ETH_P_IPV6, &filter::v6())?;
        let tasks = [v4, v6].map(|socket| tokio::spawn(follow(socket, gue_port, events.clone())));
        Ok((Self { tasks }, receiver))
    }
}

impl Drop for PathMtuListener {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn follow(socket: AsyncFd<Socket>, gue_port: u16, events: mpsc::Sender<Said>) {
    let mut buffer = [0; SNAP];
    loop {
        match socket.async_io(Interest::READABLE, |mut socket| socket.read(&mut buffer)).await {
            Ok(length) => {
                let packet = buffer.get(..length).unwrap_or_default();
                if let Some(event) = message::read(packet, gue_port)
                    && events.send(event).await.is_err()
                {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "cannot read ICMP messages; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// A socket for packets of one protocol from the network layer on, of all interfaces.
fn open(protocol: i32, filter: &[SockFilter]) -> io::Result<AsyncFd<Socket>> {
    // Of protocol zero it gets nothing, until the filter is in place.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.attach_filter(filter)?;
    socket.bind(&any_interface(protocol as u16))?;
    // SAFETY: a `Socket` owns its descriptor, which stays open and the same as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

fn any_interface(protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` fits in any socket address, and zeros are one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol.to_be();
    // SAFETY: the storage begins with an address of this family and length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
