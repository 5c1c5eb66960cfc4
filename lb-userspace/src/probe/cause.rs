//! Which ICMP error ended a connection or lost a datagram, and who sent it: the socket's error
//! queue (ip(7), `IP_RECVERR`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

/// An ICMP error for a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// Its sender; our own address when our own stack gave up.
    pub(super) from: IpAddr,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Port,
    Host,
    Net,
    Protocol,
    Prohibited,
    HopLimit,
    Other { kind: u8, code: u8 },
}

/// Has ICMP errors kept in the queue of a socket.
pub(super) fn keep(socket: &impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, option) = match ipv6 {
        false => (libc::IPPROTO_IP, libc::IP_RECVERR),
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    // SAFETY: the fd is open while borrowed; the option is an int, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The latest error in the queue, if it came by ICMP.
pub(super) fn take(socket: &impl AsFd) -> Option<Cause> {
    let mut latest = None;
    // A queue is no longer than the receive buffer; a flood must not keep us here.
    for _ in 0..16 {
        match receive(socket)? {
            Some(cause) => latest = Some(cause),
            None => break,
        }
    }
    latest
}

/// One entry: `None` inside where there is none left, or none by ICMP.
#[expect(clippy::option_option, reason = "outer: failed to look, inner: nothing there")]
fn receive(socket: &impl AsFd) -> Option<Option<Cause>> {
    // Aligned as cmsghdr is.
    let mut control = [0u64; 64];
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the fd is open while borrowed; `message` has no name and no data, and a control
    // buffer of the size given, which outlives the call.
    let result = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    if result < 0 {
        return Some(None);
    }
    // SAFETY: recvmsg has filled the control buffer up to the msg_controllen it set.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: FIRSTHDR and NXTHDR return null or a header that lies in the buffer.
        let (level, kind, length) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        // SAFETY: as above; CMSG_LEN has no precondition.
        let (data, overhead) = unsafe { (libc::CMSG_DATA(header), libc::CMSG_LEN(0) as usize) };
        // SAFETY: the kernel puts only whole messages there: `length` with the header.
        let data = unsafe { std::slice::from_raw_parts(data, length.saturating_sub(overhead)) };
        let errors =
            [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
        if errors.contains(&(level, kind)) {
            return Some(parse(data));
        }
        // SAFETY: `header` is a header of this message.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Some(None)
}

/// `struct sock_extended_err` and the offender's address, as the kernel lays them out
/// (include/uapi/linux/errqueue.h): errno, origin, type, code; 16 bytes, then a sockaddr.
fn parse(data: &[u8]) -> Option<Cause> {
    let [_, _, _, _, origin, kind, code, ..] = *data else { return None };
    let address = data.get(16..)?;
    let what = match origin {
        libc::SO_EE_ORIGIN_ICMP => v4(kind, code),
        libc::SO_EE_ORIGIN_ICMP6 => v6(kind, code),
        _ => return None,
    };
    let family = u16::from_ne_bytes(address.get(..2)?.try_into().ok()?);
    let from = match i32::from(family) {
        libc::AF_INET => {
            IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(address.get(4..8)?).ok()?))
        }
        libc::AF_INET6 => {
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(address.get(8..24)?).ok()?))
        }
        _ => return None,
    };
    Some(Cause { from: from.to_canonical(), what })
}

/// RFC 792 and RFC 1812 section 5.2.7.1.
fn v4(kind: u8, code: u8) -> What {
    match (kind, code) {
        (3, 0 | 6 | 11) => What::Net,
        (3, 1 | 7 | 8 | 12) => What::Host,
        (3, 2) => What::Protocol,
        (3, 3) => What::Port,
        (3, 9 | 10 | 13) => What::Prohibited,
        (11, _) => What::HopLimit,
        (kind, code) => What::Other { kind, code },
    }
}

/// RFC 4443 sections 3.1 and 3.3.
fn v6(kind: u8, code: u8) -> What {
    match (kind, code) {
        (1, 0 | 6) => What::Net,
        (1, 1 | 5) => What::Prohibited,
        (1, 3) => What::Host,
        (1, 4) => What::Port,
        (3, _) => What::HopLimit,
        (4, 1) => What::Protocol,
        (kind, code) => What::Other { kind, code },
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port => f.write_str("port unreachable"),
            Self::Host => f.write_str("host unreachable"),
            Self::Net => f.write_str("network unreachable"),
            Self::Protocol => f.write_str("protocol unreachable"),
            Self::Prohibited => f.write_str("administratively prohibited"),
            Self::HopLimit => f.write_str("no hops left, as in a routing loop"),
            Self::Other { kind, code } => write!(f, "ICMP type {kind} code {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&data);
        }
    }
}
