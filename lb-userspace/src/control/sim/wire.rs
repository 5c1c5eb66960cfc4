//! Frames as clients and servers send them, and what a frame that left says of where it goes.
//! Shares no code with the path.

use std::net::Ipv4Addr;

/// TCP flags.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMP: u8 = 1;

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) ports: (u16, u16),
    pub(super) protocol: u8,
}

impl Tuple {
    /// As the other end sends.
    pub(super) fn reversed(self) -> Self {
        let (source, destination) = (self.destination, self.source);
        Self { source, destination, ports: (self.ports.1, self.ports.0), ..self }
    }

    /// A frame with these TCP flags, or this payload of UDP.
    pub(super) fn frame(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(80);
        frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0]);
        let length = 20 + if self.protocol == TCP { 20 } else { 8 + payload.len() };
        frame.extend([0x45, 0]);
        frame.extend((length as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, self.protocol, 0, 0]);
        frame.extend(self.source.octets());
        frame.extend(self.destination.octets());
        frame.extend(self.ports.0.to_be_bytes());
        frame.extend(self.ports.1.to_be_bytes());
        if self.protocol == TCP {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0, 255, 0, 0, 0, 0]);
        } else {
            frame.extend((8 + payload.len() as u16).to_be_bytes());
            frame.extend([0, 0]);
            frame.extend(payload);
        }
        frame
    }
}

/// An ICMP error about a packet that a server sent to this tuple's client: too big for a router.
pub(super) fn too_big(tuple: &Tuple) -> Vec<u8> {
    let quoted = tuple.reversed();
    let mut frame = Vec::with_capacity(80);
    frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0]);
    frame.extend([0x45, 0, 0, 56, 0, 0, 0, 0, 64, ICMP, 0, 0, 198, 51, 100, 9]);
    frame.extend(tuple.destination.octets());
    frame.extend([3, 4, 0, 0, 0, 0, 5, 100]);
    frame.extend([0x45, 0, 5, 220, 0, 0, 0x40, 0, 63, quoted.protocol, 0, 0]);
    frame.extend(quoted.source.octets());
    frame.extend(quoted.destination.octets());
    frame.extend(quoted.ports.0.to_be_bytes());
    frame.extend(quoted.ports.1.to_be_bytes());
    frame.extend([0; 4]);
    frame
}

/// The payload of a datagram of QUIC whose connection id names a server; of configuration 1, with
/// an id of four bytes. `None` opens a connection.
pub(super) fn quic(server: Option<u32>) -> [u8; 24] {
    let mut payload = [0x5a; 24];
    match server {
        None => {
            // A long header of version 1, an Initial; its connection id is the client's invention.
            payload[..7].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8, 0x3f]);
        }
        Some(id) => {
            payload[..2].copy_from_slice(&[0x40, 1 << 5]);
            payload[2..6].copy_from_slice(&id.to_be_bytes());
        }
    }
    payload
}

/// How a frame reaches a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Way {
    Direct,
    Tunnel,
    /// Translated, from this source port.
    Nat(u16),
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tunnel => "in a tunnel",
            Self::Nat(_) => "translated",
        }
    }
}

/// Where a frame that left goes: the number of a server, and the way.
pub(super) type Target = (u32, Way);

/// Reads the target off a frame that was made of one with this destination.
pub(super) fn target(frame: &[u8], vip: Ipv4Addr) -> Option<Target> {
    let destination: [u8; 4] = frame.get(30..34)?.try_into().ok()?;
    let to = Ipv4Addr::from(destination);
    if to == vip {
        let mac: [u8; 4] = frame.get(2..6)?.try_into().ok()?;
        return Some((u32::from_be_bytes(mac), Way::Direct));
    }
    let way = match frame.get(23)? {
        4 => Way::Tunnel,
        _ => Way::Nat(u16::from_be_bytes(frame.get(34..36)?.try_into().ok()?)),
    };
    Some((number(to), way))
}

/// The tuple of a frame without options or tunnel.
pub(super) fn tuple(frame: &[u8]) -> Option<Tuple> {
    let address = |at: usize| -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
        Some(bytes.into())
    };
    let port = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    Some(Tuple {
        source: address(26)?,
        destination: address(30)?,
        ports: (port(34)?, port(36)?),
        protocol: *frame.get(23)?,
    })
}

/// The address of a server.
pub(super) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + number)
}

fn number(address: Ipv4Addr) -> u32 {
    u32::from(address) - 0x0a00_0000
}
