//! The packets of the cases: headers as bytes, and which words of them differ between flows.

/// 32-bit words behind the Ethernet header that the driver can write.
pub(crate) const WORDS: usize = 32;
/// Words that can differ.
pub(crate) const PATCHES: usize = 4;

/// `base + (flow >> shift & mask) << up`, big-endian, at an offset in the frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patch {
    pub(crate) at: u32,
    pub(crate) base: u32,
    pub(crate) shift: u32,
    pub(crate) mask: u32,
    pub(crate) up: u32,
}

/// A packet that stands for many.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Its first bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) patches: Vec<Patch>,
    /// Of the frame.
    pub(crate) length: usize,
    /// A power of two.
    pub(crate) flows: u32,
    /// Words that are written anew for each packet, as the program under test changes them.
    pub(crate) written: u32,
}

/// [`Template::written`] of a packet with which anything may be done.
pub(crate) const EVERYTHING: u32 = u32::MAX;

impl Template {
    /// The same, where no more is done to a packet than a hop taken off it.
    pub(crate) fn a_hop_older(mut self, six: bool) -> Self {
        self.written = if six { 1 << 1 } else { 1 << 2 };
        self
    }

    /// The same to another port.
    pub(crate) fn at_port(mut self, port: u16) -> Self {
        for patch in self.patches.iter_mut().filter(|patch| patch.up == 16) {
            patch.base = patch.base & 0xffff_0000 | u32::from(port);
        }
        self
    }
}

/// What is in an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// A segment with these flags.
    Tcp(u8),
    Udp,
    /// With a connection id whose server id (2 bytes) is among 64, from 0 on.
    Quic,
    Echo,
}

pub(crate) const ACK: u8 = 0x10;
pub(crate) const SYN: u8 = 0x02;

/// First VIP, host order: IPv4; of IPv6 the last word.
pub(crate) const VIP4: u32 = 0xc612_0000;
pub(crate) const VIP6: [u32; 4] = [0x2001_0db8, 0, 0, 0x1000];
/// First client.
pub(crate) const CLIENT4: u32 = 0x0a00_0000;
pub(crate) const CLIENT6: [u32; 4] = [0x2001_0db8, 0x00cc, 0, 0];
pub(crate) const PORT: u16 = 80;
pub(crate) const FIRST_CLIENT_PORT: u16 = 1024;

/// Where packets are from and to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) six: bool,
    /// Number of the first VIP.
    pub(crate) vip: u32,
    /// VIPs, a power of two.
    pub(crate) services: u32,
    pub(crate) flows: u32,
}

/// Bytes of a frame that has no more than it needs to be one.
const SMALL: usize = 64;
/// A full one.
pub(crate) const LARGE: usize = 1514;

/// Packets of clients to VIPs. Flows differ in client and port, and are spread over the VIPs.
pub(crate) fn to_vips(ends: Ends, payload: Payload) -> Template {
    let Ends { six, vip, services, flows } = ends;
    let ports = u32::from(FIRST_CLIENT_PORT) << 16 | u32::from(PORT);
    let mut bytes = ethernet(six);
    let mut patches = Vec::new();
    let l4 = match payload {
        Payload::Tcp(flags) => tcp(ports, flags),
        Payload::Udp => udp(ports, &[0; 8]),
        Payload::Quic => udp(ports, &quic()),
        Payload::Echo => vec![if six { 128 } else { 8 }, 0, 0, 0, 0, 7, 0, 1],
    };
    let protocol = match payload {
        Payload::Tcp(_) => 6,
        Payload::Udp | Payload::Quic => 17,
        Payload::Echo if six => 58,
        Payload::Echo => 1,
    };
    bytes.extend(ip(six, client(six), vip_address(six, vip), protocol, l4.len()));
    let l4_at = bytes.len() as u32;
    bytes.extend(l4);
    let (source_at, destination_at) = if six { (34, 50) } else { (26, 30) };
    let source = client(six)[if six { 3 } else { 0 }];
    let destination = vip_address(six, vip)[if six { 3 } else { 0 }];
    // Clients have 16 flows each, of different ports.
    patches.push(Patch { at: source_at, base: source, shift: 0, mask: flows - 1, up: 0 });
    patches.push(Patch {
        at: destination_at,
        base: destination,
        shift: 0,
        mask: services - 1,
        up: 0,
    });
    if payload != Payload::Echo {
        patches.push(Patch {
            at: l4_at,
            base: ports,
            shift: 3,
            mask: 0x7fff.min(flows - 1),
            up: 16,
        });
    }
    if payload == Payload::Quic {
        // The first bytes of the payload: flags, the id's first octet, its server id.
        patches.push(Patch {
            at: l4_at + 8,
            base: 0x4000_0000,
            shift: 2,
            mask: 63.min(flows - 1),
            up: 0,
        });
    }
    let length = bytes.len().max(SMALL);
    Template { bytes, patches, length, flows, written: EVERYTHING }
}

/// Full-size packets that may not be cut.
pub(crate) fn large(ends: Ends) -> Template {
    let mut template = to_vips(ends, Payload::Tcp(ACK));
    let length = (LARGE - 14) as u16;
    if ends.six {
        template.bytes[18..20].copy_from_slice(&(length - 40).to_be_bytes());
    } else {
        template.bytes[16..18].copy_from_slice(&length.to_be_bytes());
        template.bytes[20] = 0x40;
    }
    template.length = LARGE;
    template
}

/// Errors about packets from VIPs to clients, with 8 bytes of their transport header.
pub(crate) fn errors(ends: Ends) -> Template {
    let Ends { six, vip, services, flows } = ends;
    let ports = u32::from(PORT) << 16 | u32::from(FIRST_CLIENT_PORT);
    let router = if six { [0x2001_0db8, 0xdd, 0, 1] } else { [0x0b00_0001, 0, 0, 0] };
    let mut bytes = ethernet(six);
    let quoted = ip(six, vip_address(six, vip), client(six), 6, 20);
    bytes.extend(ip(
        six,
        router,
        vip_address(six, vip),
        if six { 58 } else { 1 },
        16 + quoted.len(),
    ));
    // Packet too big; fragmentation needed (RFC 4443, section 3.2; RFC 792).
    bytes.extend(if six { [2, 0, 0, 0, 0, 0, 5, 0x78] } else { [3, 4, 0, 0, 0, 0, 5, 0x78] });
    let inner = bytes.len() as u32;
    bytes.extend(quoted);
    let l4_at = bytes.len() as u32;
    bytes.extend(ports.to_be_bytes());
    bytes.extend([0; 4]);
    let word = if six { 3 } else { 0 };
    let (source, destination) = if six { (20, 36) } else { (12, 16) };
    let vip_word = vip_address(six, vip)[word];
    let patches = vec![
        Patch {
            at: if six { 50 } else { 30 },
            base: vip_word,
            shift: 0,
            mask: services - 1,
            up: 0,
        },
        Patch { at: inner + source, base: vip_word, shift: 0, mask: services - 1, up: 0 },
        Patch {
            at: inner + destination,
            base: client(six)[word],
            shift: 0,
            mask: flows - 1,
            up: 0,
        },
        Patch { at: l4_at, base: ports, shift: 3, mask: 0x7fff.min(flows - 1), up: 0 },
    ];
    let length = bytes.len().max(SMALL);
    Template { bytes, patches, length, flows, written: EVERYTHING }
}

/// Packets in tunnels, as a balancer at [`TUNNEL`] makes them.
pub(crate) fn tunnelled(ends: Ends, gue: bool) -> Template {
    let inner = to_vips(ends, Payload::Tcp(ACK));
    let packet = &inner.bytes[14..];
    let mut bytes = ethernet(ends.six);
    let (protocol, extra) = match (gue, ends.six) {
        (true, _) => (17, 8),
        (false, true) => (41, 0),
        (false, false) => (4, 0),
    };
    let to = if ends.six { [0xfd00_0007, 0, 0, 1] } else { [0x0a07_0001, 0, 0, 0] };
    bytes.extend(ip(ends.six, TUNNEL[usize::from(ends.six)], to, protocol, extra + packet.len()));
    if gue {
        bytes.extend([0xc0, 0, 0x17, 0xc0]);
        bytes.extend(((8 + packet.len()) as u16).to_be_bytes());
        bytes.extend([0; 2]);
    }
    let moved = (bytes.len() - 14) as u32;
    bytes.extend(packet);
    let patches =
        inner.patches.iter().map(|patch| Patch { at: patch.at + moved, ..*patch }).collect();
    let length = bytes.len().max(SMALL);
    Template { bytes, patches, length, flows: ends.flows, written: EVERYTHING }
}

/// Where tunnels come from, of both families.
pub(crate) const TUNNEL: [[u32; 4]; 2] = [[0x0a08_0001, 0, 0, 0], [0xfd00_0008, 0, 0, 1]];

/// Replies of backends behind NAT: see [`reply_ports`].
pub(crate) fn replies(six: bool, flows: u32) -> Template {
    let ports = u32::from(PORT) << 16 | u32::from(FIRST_NAT_PORT);
    let word = if six { 3 } else { 0 };
    let mut bytes = ethernet(six);
    bytes.extend(ip(six, server_address(six, 0), nat_address(six), 6, 20));
    let l4_at = bytes.len() as u32;
    bytes.extend(tcp(ports, ACK));
    let patches = vec![
        Patch {
            at: if six { 34 } else { 26 },
            base: server_address(six, 0)[word],
            shift: 0,
            mask: NAT_SERVERS.min(flows) - 1,
            up: 0,
        },
        Patch {
            at: l4_at,
            base: ports,
            shift: NAT_SERVERS.ilog2(),
            mask: (flows / NAT_SERVERS).max(1) - 1,
            up: 0,
        },
    ];
    let length = bytes.len().max(SMALL);
    Template { bytes, patches, length, flows, written: EVERYTHING }
}

/// Servers that NAT flows have, whatever the service has.
pub(crate) const NAT_SERVERS: u32 = 64;
/// First source port that NAT uses, and how many.
pub(crate) const FIRST_NAT_PORT: u16 = 10_000;
pub(crate) const NAT_PORTS: u16 = 50_000;

/// The address of a server.
pub(crate) fn server_address(six: bool, id: u32) -> [u32; 4] {
    if six { [0xfd00_0007, 0, 0, id + 1] } else { [0x0a70_0001 + id, 0, 0, 0] }
}

/// Where NAT connections come from.
pub(crate) fn nat_address(six: bool) -> [u32; 4] {
    if six { [0xfd00_0009, 0, 0, 1] } else { [0x0a09_0001, 0, 0, 0] }
}

pub(crate) fn vip_address(six: bool, number: u32) -> [u32; 4] {
    let [a, b, c, d] = VIP6;
    if six { [a, b, c, d + number] } else { [VIP4 + number, 0, 0, 0] }
}

pub(crate) fn client(six: bool) -> [u32; 4] {
    if six { CLIENT6 } else { [CLIENT4, 0, 0, 0] }
}

fn ethernet(six: bool) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 0xbb, 2, 0, 0, 0, 0, 0xcc];
    bytes.extend(if six { [0x86, 0xdd] } else { [8, 0] });
    bytes
}

/// An IP header; addresses in host order.
fn ip(six: bool, source: [u32; 4], destination: [u32; 4], protocol: u8, payload: usize) -> Vec<u8> {
    let mut bytes;
    if six {
        let [high, low] = (payload as u16).to_be_bytes();
        bytes = vec![0x60, 0, 0, 0, high, low, protocol, 64];
        bytes.extend(source.iter().chain(&destination).flat_map(|word| word.to_be_bytes()));
    } else {
        let [high, low] = (payload as u16 + 20).to_be_bytes();
        // The balancer mends checksums by difference, and so checks none.
        bytes = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes.extend([source[0], destination[0]].iter().flat_map(|word| word.to_be_bytes()));
    }
    bytes
}

fn tcp(ports: u32, flags: u8) -> Vec<u8> {
    let mut bytes = ports.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0x12, 0x34, 0, 0]);
    bytes
}

fn udp(ports: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ports.to_be_bytes().to_vec();
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(payload);
    bytes
}

/// A packet with a short header whose connection id names configuration 0 and a server id of two
/// bytes; the first word is the driver's to write.
fn quic() -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[0] = 0x40;
    bytes
}
