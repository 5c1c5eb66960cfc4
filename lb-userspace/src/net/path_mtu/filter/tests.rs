//! The filters on sockets that take any bytes, so that the kernel itself runs them.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use socket2::Socket;

use super::super::packets::Inner::{Protocol, Udp};
use super::super::packets::{packet, too_big};
use super::*;

/// Whether the kernel lets `packet` through `filter`.
fn passes(filter: &[SockFilter], packet: &[u8]) -> bool {
    let (near, far) = UnixDatagram::pair().unwrap();
    let far = Socket::from(OwnedFd::from(far));
    far.attach_filter(filter).unwrap();
    // A refused packet may be told of, or not.
    let _ = near.send(packet);
    far.set_nonblocking(true).unwrap();
    (&far).read(&mut [0; 2 * SNAP]).is_ok()
}

#[test]
fn only_messages_about_tunnels_pass() {
    let quote = |inner| packet("10.5.5.5", "10.9.0.5", inner, 60);
    let quote_v6 = |inner| packet("fd05::5", "fd09::5", inner, 60);
    let v4 = |inner| too_big(&quote(inner), "10.5.5.5", 1400);
    let v6 = |inner| too_big(&quote_v6(inner), "fd05::5", 1400);
    let changed = |mut bytes: Vec<u8>, at: usize, value: u8| {
        bytes[at] = value;
        bytes
    };
    let optional = {
        let mut bytes = changed(v4(Protocol(4)), 0, 0x46);
        bytes.splice(20..20, [1, 1, 1, 0]);
        bytes
    };
    for (what, bytes, expected) in [
        ("IPv4 in IPv4", v4(Protocol(4)), true),
        ("IPv6 in IPv4", v4(Protocol(41)), true),
        ("UDP", v4(Udp(6080)), true),
        ("with IP options", optional, true),
        ("TCP", v4(Protocol(6)), false),
        ("host unreachable", changed(v4(Protocol(4)), 21, 1), true),
        ("an echo", changed(v4(Protocol(4)), 20, 8), false),
        ("a fragment", changed(v4(Protocol(4)), 7, 9), false),
        ("no ICMP", changed(v4(Protocol(4)), 9, 17), false),
        ("cut off", v4(Protocol(4))[..30].to_vec(), false),
        ("a tunnel's packet", quote(Protocol(4)), false),
    ] {
        assert_eq!(passes(&super::v4(), &bytes), expected, "{what}");
    }
    for (what, bytes, expected) in [
        ("IPv4 in IPv6", v6(Protocol(4)), true),
        ("IPv6 in IPv6", v6(Protocol(41)), true),
        ("UDP", v6(Udp(6080)), true),
        ("TCP", v6(Protocol(6)), false),
        ("unreachable", changed(v6(Protocol(41)), 40, 1), true),
        ("a parameter problem", changed(v6(Protocol(41)), 40, 4), false),
        ("a neighbour's question", changed(v6(Protocol(41)), 40, 135), false),
        ("no ICMP", changed(v6(Protocol(41)), 6, 17), false),
        ("cut off", v6(Protocol(41))[..50].to_vec(), false),
        ("a tunnel's packet", quote_v6(Protocol(41)), false),
    ] {
        assert_eq!(passes(&super::v6(), &bytes), expected, "{what}");
    }
}
