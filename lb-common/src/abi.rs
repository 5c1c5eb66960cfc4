//! The maps: names, element types and their layout, shared by the program and the daemon.
//!
//! All types are plain data with explicit padding; a change of any size or meaning raises
//! [`ABI_VERSION`]. IP addresses are four words as they lie in a packet (network byte order); an
//! IPv4 address is the first word, the others zero. Ports are as they lie in a packet, too.

use bytemuck::{Pod, Zeroable};

/// Version of everything in this module.
pub const ABI_VERSION: u32 = 4;

/// An IP address as four words of network-order bytes; IPv4 in the first.
pub type Address = [u32; 4];

/// Steps of the re-hash walk, the home slot included.
pub const WALK_STEPS: u32 = 32;
/// Places of the service table tried before a look-up gives up.
pub const SERVICE_PROBES: u32 = 8;
/// Source ports tried before a NAT connection is refused.
pub const NAT_PORT_TRIES: u32 = 32;
/// Arena elements of a cache line; tables begin at whole lines.
pub const LINE: u32 = 8;
/// Backend rows are handed out in blocks of this many.
pub const BACKEND_BLOCK: u32 = 16;
/// Spare backends listed per service.
pub const SPARES: u32 = 16;

/// Names of the maps in the object.
pub mod map {
    /// [`super::ServiceRecord`]s, an open-addressing table.
    pub const SERVICES: &str = "SERVICES";
    /// Maglev tables, packed slots.
    pub const TABLES: &str = "TABLES";
    /// One bit for each slot: flows of it may live elsewhere (`LOOK`).
    pub const MARKS: &str = "MARKS";
    /// [`super::Word`]s, one for each backend row.
    pub const WORDS: &str = "WORDS";
    /// Ports of the backends, one `u64` for each row, in the low 16 bits.
    pub const PORTS: &str = "PORTS";
    /// [`super::Server`]s.
    pub const SERVERS: &str = "SERVERS";
    /// Spare backends: [`super::SPARES`] indices of `u16` for each service, 4 to a `u64`.
    pub const SPARE: &str = "SPARE";
    /// Exceptions to the tables: [`super::FlowKey`] → [`super::FlowEntry`], LRU.
    pub const FLOWS: &str = "FLOWS";
    /// NAT connections, two entries each: [`super::FlowKey`] → [`super::NatEntry`].
    pub const NAT: &str = "NAT";
    /// [`super::Traffic`], row = processor × backends + backend row.
    pub const TRAFFIC: &str = "TRAFFIC";
    /// New flows, a `u64`, rows as in [`TRAFFIC`].
    pub const NEW_FLOWS: &str = "NEW_FLOWS";
    /// Verdicts and events, `u64`, row = processor × [`crate::verdict::ROW`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Interfaces frames may leave by: interface index → interface index, a hash of devices.
    pub const DEVICES: &str = "DEVICES";
    /// VIP prefixes: [`super::AddressKey`] → length of the prefix, longest match.
    pub const PREFIXES: &str = "PREFIXES";
    /// How many prefixes there are: one element. Raised before a prefix is added, and lowered after
    /// it went.
    pub const PREFIX_COUNT: &str = "PREFIX_COUNT";
    /// Allow lists and the block list: [`super::AddressKey`] → 1, longest match.
    pub const SOURCES: &str = "SOURCES";
    /// Rates of sources: [`super::RateKey`] → [`super::Bucket`], LRU.
    pub const RATES: &str = "RATES";
    /// Limits of one processor: [`super::Bucket`], row = processor × [`super::LIMITS`].
    pub const BUCKETS: &str = "BUCKETS";
    /// One [`super::NatEntry`] for each processor, where the next one is made.
    pub const DRAFTS: &str = "DRAFTS";
    /// What packets said against backends: [`super::doubt_word`]s, [`super::DOUBTS`] of them.
    pub const DOUBTS: &str = "DOUBTS";
    /// QUIC server ids: [`super::ServerIdKey`] → backend row.
    pub const SERVER_IDS: &str = "SERVER_IDS";
    /// Of the programs that turn probes: [`super::probe_key`] → [`super::ProbeEntry`].
    pub const PROBES: &str = "PROBES";
}

/// One frontend, or what the node does with an address.
///
/// The key word is written last when a record appears and first when it goes; [`Table`] changes
/// by one store while the record is in use. The other words may change too, each by itself.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceRecord {
    /// [`service_key`], [`KEY_EMPTY`] or [`KEY_REMOVED`].
    pub key: u32,
    /// Number of the service: its row of spares, its allow list.
    pub service: u32,
    /// The VIP, or a prefix's name ([`crate::find_service::prefix_name`]).
    pub address: Address,
    /// Where the service's table is; see [`Table`].
    pub table: u64,
    /// `SERVICE_*` bits, or `ADDRESS_*` bits in a record of an address alone.
    pub flags: u32,
    /// `flow` UDP: until this second of the monotonic clock a datagram without an entry counts as
    /// one of an existing flow.
    pub udp_until: u32,
    /// Largest TCP segment size a SYN may announce; 0 leaves it.
    pub mss: u32,
    /// QUIC: config id (3 bits) | length of the server id in bytes << 8.
    pub quic: u32,
    /// New flows per second that one source may open.
    pub rate: u32,
    /// And how many at once.
    pub burst: u32,
    /// In a record of an address alone: bit `n` says that there are TCP frontends whose ports
    /// are a prefix of `n` bits ([`service_key`]), bit `16 + n` the same of UDP.
    pub ports: u32,
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<ServiceRecord>() == 64);

/// No record was ever here: a look-up ends.
pub const KEY_EMPTY: u32 = 0;
/// A record was here: a look-up goes on.
pub const KEY_REMOVED: u32 = 1;

/// Connections may be in the NAT table: it is asked first.
pub const SERVICE_NAT: u32 = 1;
/// Hashed by the source address alone.
pub const SERVICE_HASH_SOURCE: u32 = 1 << 1;
/// Hashed by source and destination address.
pub const SERVICE_HASH_ADDRESSES: u32 = 1 << 2;
/// Datagrams of one 5-tuple are a flow that stays where it is.
pub const SERVICE_UDP_FLOW: u32 = 1 << 3;
/// Every flow is recorded, the classical way.
pub const SERVICE_TRACK: u32 = 1 << 4;
/// Only sources on the service's list may come.
pub const SERVICE_ALLOW: u32 = 1 << 5;
/// The block list is not empty.
pub const SERVICE_BLOCK: u32 = 1 << 6;
/// Sources are limited in new flows.
pub const SERVICE_RATE: u32 = 1 << 7;
/// UDP is QUIC, routed by connection id.
pub const SERVICE_QUIC: u32 = 1 << 8;
/// SYNs are clamped to `mss`.
pub const SERVICE_MSS: u32 = 1 << 9;
/// TCP packets of NAT connections whose backend is gone are answered with a reset.
pub const SERVICE_RESET: u32 = 1 << 10;

/// The address is a VIP.
pub const ADDRESS_VIP: u32 = 1;
/// NAT uses the address.
pub const ADDRESS_NAT: u32 = 1 << 1;

/// Bits of a port that a single-port frontend fixes.
pub const PORT_EXACT: u32 = 16;
/// In place of the port bits: the service that takes all fragments of an address and protocol;
/// without slots: that none does, though a prefix around the address has one.
pub const PORT_FRAGMENTS: u32 = 17;
/// Or-ed to the protocol byte: the address is a prefix's name.
pub const KEY_PREFIX: u8 = 0x80;

/// The key word of a frontend: its port as in a packet, protocol and family (4 or 6).
/// Port and protocol zero stand for the address alone.
#[inline(always)]
#[must_use]
pub const fn service_key(port: u16, protocol: u8, family: u32) -> u32 {
    port_key(port, PORT_EXACT, protocol, family)
}

/// The key word of a frontend of all ports (as in a packet) that share the first `bits` bits
/// with this one, whose other bits are zero.
///
/// | bits | |
/// | --- | --- |
/// | 0–2 | family |
/// | 3–7 | port bits that count, [`PORT_EXACT`], [`PORT_FRAGMENTS`] |
/// | 8–15 | protocol, [`KEY_PREFIX`] |
/// | 16–31 | port |
#[inline(always)]
#[must_use]
pub const fn port_key(port: u16, bits: u32, protocol: u8, family: u32) -> u32 {
    (port as u32) << 16 | (protocol as u32) << 8 | bits << 3 | family
}

/// A service's Maglev table in one word, so that all of it changes with one store.
///
/// | bits | |
/// | --- | --- |
/// | 0–22 | where it begins in the arena, in cache lines of [`LINE`] `u64` elements |
/// | 23 | it has a shadow: the element behind its slots is the shadow's table word |
/// | 26–45 | `M`, its slots |
/// | 46 | slots have 16 bits, else 8 |
/// | 47 | some of its slots may be marked |
/// | 48–63 | first backend row, in blocks of [`BACKEND_BLOCK`] |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table(pub u64);

impl Table {
    /// Arena elements that can be addressed.
    pub const MAX_BASE: u32 = 1 << 26;
    /// Most slots a table can have.
    pub const MAX_SLOTS: u32 = (1 << 20) - 1;
    /// Blocks of backend rows that can be addressed.
    pub const MAX_BLOCKS: u32 = 1 << 16;

    /// Packs the word; each part is cut to its bits.
    #[must_use]
    pub const fn new(base: u32, slots: u32, wide: bool, marked: bool, block: u32) -> Self {
        Self(
            ((base & (Self::MAX_BASE - 1)) / LINE) as u64
                | ((slots & Self::MAX_SLOTS) as u64) << 26
                | (wide as u64) << 46
                | (marked as u64) << 47
                | ((block & (Self::MAX_BLOCKS - 1)) as u64) << 48,
        )
    }

    /// First element in the arena.
    #[inline(always)]
    #[must_use]
    pub const fn base(self) -> u32 {
        (self.0 as u32 & (Self::MAX_BASE / LINE - 1)) * LINE
    }

    /// Whether slots have previous owners.
    #[inline(always)]
    #[must_use]
    pub const fn shadowed(self) -> bool {
        self.0 & 1 << 23 != 0
    }

    /// The same table, with or without a shadow.
    #[must_use]
    pub const fn with_shadowed(self, shadowed: bool) -> Self {
        Self(self.0 & !(1 << 23) | (shadowed as u64) << 23)
    }

    /// The arena element that holds the shadow's table word.
    #[inline(always)]
    #[must_use]
    pub const fn shadow_at(self) -> u32 {
        self.base() + Self::elements(self.slots(), self.wide())
    }

    /// `M`.
    #[inline(always)]
    #[must_use]
    pub const fn slots(self) -> u32 {
        (self.0 >> 26) as u32 & Self::MAX_SLOTS
    }

    /// Whether a slot has 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn wide(self) -> bool {
        self.0 & 1 << 46 != 0
    }

    /// Whether marks must be asked.
    #[inline(always)]
    #[must_use]
    pub const fn marked(self) -> bool {
        self.0 & 1 << 47 != 0
    }

    /// The same table, with or without marks.
    #[must_use]
    pub const fn with_marked(self, marked: bool) -> Self {
        Self(self.0 & !(1 << 47) | (marked as u64) << 47)
    }

    /// First backend row.
    #[inline(always)]
    #[must_use]
    pub const fn first_row(self) -> u32 {
        (self.0 >> 48) as u32 * BACKEND_BLOCK
    }

    /// The arena element of a slot, and how far its index is shifted in it. Without branches:
    /// the walk does this in a loop.
    #[inline(always)]
    #[must_use]
    pub const fn slot_at(self, slot: u32) -> (u32, u32) {
        let wide = (self.0 >> 46) as u32 & 1;
        let per_element = 3 - wide;
        let place = slot & ((1 << per_element) - 1);
        (self.base() + (slot >> per_element), place << (3 + wide))
    }

    /// [`Self::slot_at`], and [`Self::slot_mask`] behind them, by a branch: where there is no loop, it
    /// costs less than the arithmetic.
    #[inline(always)]
    #[must_use]
    pub const fn slot_at_once(self, slot: u32) -> (u32, u32, u32) {
        if self.wide() {
            (self.base() + (slot >> 2), (slot & 3) * 16, 0xffff)
        } else {
            (self.base() + (slot >> 3), (slot & 7) * 8, 0xff)
        }
    }

    /// The bits of a slot, shifted down.
    #[inline(always)]
    #[must_use]
    pub const fn slot_mask(self) -> u32 {
        let wide = (self.0 >> 46) as u32 & 1;
        (1 << (8 << wide)) - 1
    }

    /// The bitmap element of a slot's mark, and its bit. A table's bits begin at eight for each
    /// arena element, so that tables that do not share elements do not share marks.
    #[inline(always)]
    #[must_use]
    pub const fn mark_at(self, slot: u32) -> (u32, u32) {
        let bit = self.base() * 8 + slot;
        (bit >> 6, bit & 63)
    }

    /// Arena elements the slots of a table take: whole cache lines, so that marks of two tables
    /// never share an element.
    #[inline(always)]
    #[must_use]
    pub const fn elements(slots: u32, wide: bool) -> u32 {
        {
            let shift = 3 - wide as u32;
            ((slots + (1 << shift) - 1) >> shift).next_multiple_of(LINE)
        }
    }
}

/// The admission word of a backend: what traffic it takes now, and which server it is. One
/// aligned 8-byte store changes all of it.
///
/// | bits | |
/// | --- | --- |
/// | 0–15 | `admit`: share of new flows it takes, 65,535 is all |
/// | 16–31 | `admit_old`: share of flows without an entry that it keeps |
/// | 32–51 | server |
/// | 52–61 | generation: raised when a row gets another owner |
/// | 62 | serving: recorded flows to it are good |
/// | 63 | retired: no longer in the configuration; its connections may finish |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// The share that takes everything.
    pub const FULL: u16 = u16::MAX;
    /// Servers that can be addressed.
    pub const MAX_SERVERS: u32 = 1 << 20;
    /// Generations before they wrap.
    pub const GENERATIONS: u32 = 1 << 10;

    /// Packs the word; server and generation are cut to their bits.
    #[must_use]
    pub const fn new(
        admit: u16,
        admit_old: u16,
        server: u32,
        generation: u32,
        serving: bool,
        retired: bool,
    ) -> Self {
        Self(
            admit as u64
                | (admit_old as u64) << 16
                | ((server & (Self::MAX_SERVERS - 1)) as u64) << 32
                | ((generation & (Self::GENERATIONS - 1)) as u64) << 52
                | (serving as u64) << 62
                | (retired as u64) << 63,
        )
    }

    /// Share of new flows.
    #[inline(always)]
    #[must_use]
    pub const fn admit(self) -> u16 {
        self.0 as u16
    }

    /// Share of existing flows without an entry.
    #[inline(always)]
    #[must_use]
    pub const fn admit_old(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The server's element.
    #[inline(always)]
    #[must_use]
    pub const fn server(self) -> u32 {
        (self.0 >> 32) as u32 & (Self::MAX_SERVERS - 1)
    }

    /// Whose row it is.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 52) as u32 & (Self::GENERATIONS - 1)
    }

    /// Whether recorded flows to it are good.
    #[inline(always)]
    #[must_use]
    pub const fn serving(self) -> bool {
        self.0 & 1 << 62 != 0
    }

    /// Whether it left the configuration.
    #[inline(always)]
    #[must_use]
    pub const fn retired(self) -> bool {
        self.0 & 1 << 63 != 0
    }

    /// 1 if it serves and is in the configuration, else 0.
    #[inline(always)]
    #[must_use]
    pub const fn active(self) -> u64 {
        (self.0 >> 62 & 1) & !(self.0 >> 63)
    }

    /// The normal state: takes everything.
    #[inline(always)]
    #[must_use]
    pub const fn full(self) -> bool {
        self.0 as u32 == u32::MAX && self.0 >> 62 == 1
    }

    /// New and existing flows get the same answer.
    #[inline(always)]
    #[must_use]
    pub const fn settled(self) -> bool {
        self.admit() == self.admit_old()
    }
}

/// A server: one cache line with all that sending to it takes. An address reached in two ways is
/// two servers.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Server {
    /// Destination and source MAC address, as at the start of a frame.
    pub ethernet: [u32; 3],
    /// Interface it is reached by; 0 while the next hop is not known, or `IFINDEX_*`.
    pub ifindex: u32,
    /// Its address.
    pub address: Address,
    /// Source address that full NAT, or a tunnel, uses towards it.
    pub source: Address,
    /// `KIND_*`, how packets are sent to it.
    pub kind: u32,
    /// Largest IP packet that the way to it takes, in bytes, a tunnel's headers included.
    pub mtu: u32,
    /// 802.1Q tag its frames carry: the id; 0 for none.
    pub vlan: u32,
    /// Bits of the last word of `source` that a tunnel fills from the flow's hash, as in a packet.
    pub entropy: u32,
}
const _: () = assert!(size_of::<Server>() == 64);

/// Layer-2 direct server return.
pub const KIND_DSR: u32 = 0;
/// Full NAT.
pub const KIND_NAT: u32 = 1;
/// IP in IPv4.
pub const KIND_IPIP4: u32 = 2;
/// IP in IPv6.
pub const KIND_IPIP6: u32 = 3;
/// IP in UDP in IPv4 (GUE, variant 1).
pub const KIND_GUE4: u32 = 4;
/// IP in UDP in IPv6 (GUE, variant 1).
pub const KIND_GUE6: u32 = 5;

/// The server is behind the interface the packet came by: members of a bond.
pub const IFINDEX_INGRESS: u32 = u32::MAX;
/// The server is this host: packets pass to its kernel.
pub const IFINDEX_LOCAL: u32 = u32::MAX - 1;

/// A flow as it is seen on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, then destination port, four bytes as in the packet.
    pub ports: u32,
    /// Family (4 or 6) in the high half, protocol in the low.
    pub kind: u32,
}
const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// The same flow, seen from the other end.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ports: self.ports.rotate_left(16),
            kind: self.kind,
        }
    }

    /// `kind` of a family (4 or 6) and protocol.
    #[inline(always)]
    #[must_use]
    pub const fn kind_of(family: u32, protocol: u8) -> u32 {
        family << 16 | protocol as u32
    }
}

/// Joins two ports as in a packet, source first.
#[inline(always)]
#[must_use]
pub const fn join_ports(source: u16, destination: u16) -> u32 {
    let (s, d) = (source.to_ne_bytes(), destination.to_ne_bytes());
    u32::from_ne_bytes([s[0], s[1], d[0], d[1]])
}

/// Source and destination port, as in a packet.
#[inline(always)]
#[must_use]
pub const fn split_ports(ports: u32) -> (u16, u16) {
    let [a, b, c, d] = ports.to_ne_bytes();
    (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
}

/// Where a flow goes that does not go where its slot says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowEntry {
    /// Backend row.
    pub row: u32,
    /// Its generation when the entry was made.
    pub generation: u32,
    /// Seconds of the monotonic clock; written at most every [`TOUCH_SECONDS`].
    pub last_seen: u32,
    /// [`STATE_CLOSING`] or zero.
    pub state: u32,
}
const _: () = assert!(size_of::<FlowEntry>() == 16);

/// One direction of a NAT connection: what the packet becomes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NatEntry {
    /// New source address.
    pub source: Address,
    /// New destination address.
    pub destination: Address,
    /// New ports.
    pub ports: u32,
    /// Backend row.
    pub row: u32,
    /// MAC addresses: from the client, as its frames begin; to the client, as its replies begin.
    pub ethernet: [u32; 3],
    /// Interface the client's packets came by, where replies leave.
    pub ifindex: u32,
    /// The backend's generation when the connection was opened.
    pub generation: u32,
    /// Seconds of the monotonic clock; written at most every [`TOUCH_SECONDS`].
    pub last_seen: u32,
    /// `STATE_*` bits.
    pub state: u32,
    /// 802.1Q tag of the client's packets, which replies carry, too: the id; 0 for none.
    pub vlan: u32,
}
const _: () = assert!(size_of::<NatEntry>() == 72);

/// A FIN was seen in this direction, or an RST in any.
pub const STATE_CLOSING: u32 = 1;
/// The entry translates replies.
pub const STATE_REPLY: u32 = 2;

/// The entry was used after it was made; of a reply entry: the backend has answered.
pub const STATE_USED: u32 = 4;

/// Seconds between two writes of an entry's `last_seen`.
pub const TOUCH_SECONDS: u32 = 2;

/// Packets and bytes sent to a backend by one processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Traffic {
    /// Frames.
    pub packets: u64,
    /// Bytes of these frames, Ethernet header included.
    pub bytes: u64,
}

/// Key of a longest-match map: bits that count, then list and address. The bits of the list
/// always count: a prefix of an IPv4 address has 32 + its length.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct AddressKey {
    /// Bits of what follows that count.
    pub bits: u32,
    /// [`list_word`].
    pub list: u32,
    /// The address.
    pub address: Address,
}
const _: () = assert!(size_of::<AddressKey>() == 24);

/// Number of the block list; allow lists have their service's number.
pub const LIST_BLOCK: u32 = 0x00ff_ffff;

/// Which list, and of which family (4 or 6): lists of a number share nothing.
#[inline(always)]
#[must_use]
pub const fn list_word(number: u32, family: u32) -> u32 {
    number << 8 | family
}

/// Whose rate it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct RateKey {
    /// [`list_word`] of the service.
    pub list: u32,
    /// The source.
    pub source: Address,
}
const _: () = assert!(size_of::<RateKey>() == 20);

/// A token bucket: what is left, and since when it fills.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Bucket {
    /// Thousandths of a token.
    pub millitokens: u32,
    /// Milliseconds of the monotonic clock, wrapping.
    pub at_ms: u32,
}
const _: () = assert!(size_of::<Bucket>() == 8);

/// Which server a QUIC connection id names.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct ServerIdKey {
    /// The service's number.
    pub service: u32,
    /// Zero.
    pub padding: u32,
    /// The server id's bytes as they lie in the packet, then zeroes.
    pub id: u64,
}
const _: () = assert!(size_of::<ServerIdKey>() == 16);

/// A probe in flight, whose packets go to a VIP rather than to the server's own address.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ProbeEntry {
    /// The server's record as packets of clients find it. Its address is what the prober's socket is
    /// connected to.
    pub server: Server,
    /// What the server is to be asked at.
    pub vip: Address,
    /// The socket's own address, of the server's family.
    pub local: Address,
    /// What the server is asked from: an address of this host in the VIP's family; `local` if that is
    /// the same.
    pub source: Address,
    /// The port that is probed, as in a packet.
    pub port: u32,
    /// 4 or 6.
    pub server_family: u32,
    /// 4 or 6; another one than the server's in tunnels only.
    pub vip_family: u32,
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<ProbeEntry>() == 128);

/// Whose packet it is: family (4 or 6), protocol, and the prober's own port as in a packet. Where
/// the families of server and VIP differ, an entry has a key of each.
#[inline(always)]
#[must_use]
pub const fn probe_key(family: u32, protocol: u8, port: u16) -> u32 {
    family << 24 | (protocol as u32) << 16 | port as u32
}

/// What is limited on each processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Limit {
    /// Flows recorded in the flow table.
    FlowInsert,
    /// ICMP errors made.
    Icmp,
    /// Resets made.
    Reset,
}

/// Buckets of one processor.
pub const LIMITS: u32 = 3;

/// Places for what packets say against backends. A row has one by its number, which it shares with
/// others: who says the last word is heard, and whoever has reason says it again.
pub const DOUBTS: u32 = 256;

/// That a packet said something against a backend row, at this millisecond of the monotonic clock: in
/// one word, which differs from the last whenever there is news.
#[inline(always)]
#[must_use]
pub const fn doubt_word(row: u32, now_ms: u32) -> u64 {
    row as u64 | (now_ms as u64) << 32
}

/// Whose row it was, of [`doubt_word`].
#[must_use]
pub const fn doubted_row(word: u64) -> u32 {
    word as u32
}

/// What the daemon sets when it loads the program; constants from then on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Settings {
    /// Secret seed of all hashes; nodes that share flows must agree on it.
    pub seed: u64,
    /// Elements of the service table less one; a power of two less one.
    pub service_mask: u32,
    /// Backend rows, of one processor.
    pub backend_rows: u32,
    /// First source port of NAT.
    pub nat_port_first: u32,
    /// Source ports of NAT.
    pub nat_port_count: u32,
    /// UDP port that servers take GUE on, host order.
    pub gue_port: u32,
    /// Flows recorded per second on one processor, at most.
    pub flow_inserts: u32,
    /// ICMP errors made per second on one processor, at most.
    pub icmp_rate: u32,
    /// Largest IP packet for clients, in bytes.
    pub client_mtu: u32,
    /// `FEATURE_*` bits: what is compiled in.
    pub features: u32,
    /// Zero.
    pub padding: u32,
}

/// Services in mode `nat`.
pub const FEATURE_NAT: u32 = 1;
/// Tunnels to servers with IPv4 addresses.
pub const FEATURE_TUNNEL4: u32 = 1 << 1;
/// Tunnels to servers with IPv6 addresses.
pub const FEATURE_TUNNEL6: u32 = 1 << 2;
/// Prefixes as VIPs.
pub const FEATURE_PREFIXES: u32 = 1 << 3;
/// QUIC routed by connection id.
pub const FEATURE_QUIC: u32 = 1 << 4;
/// Allow lists, the block list, rate limits.
pub const FEATURE_FILTERS: u32 = 1 << 5;
/// All of them.
pub const FEATURES_ALL: u32 = (1 << 6) - 1;

#[cfg(feature = "user")]
mod user {
    // SAFETY: all are `bytemuck::Pod`: no padding, no invalid bit patterns.
    unsafe impl aya::Pod for super::FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FlowEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NatEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RateKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Bucket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ServerIdKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Settings {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_table_word_holds_its_parts(
            line in 0..Table::MAX_BASE / LINE, slots in 0..=Table::MAX_SLOTS, wide: bool, marked: bool,
            block in 0..Table::MAX_BLOCKS,
        ) {
            let base = line * LINE;
            let table = Table::new(base, slots, wide, marked, block);
            prop_assert!(!table.shadowed() && table.with_shadowed(true).shadowed());
            prop_assert_eq!(table.with_shadowed(true).base(), base);
            prop_assert_eq!(table.base(), base);
            prop_assert_eq!(table.slots(), slots);
            prop_assert_eq!(table.wide(), wide);
            prop_assert_eq!(table.marked(), marked);
            prop_assert_eq!(table.first_row(), block * BACKEND_BLOCK);
            prop_assert_eq!(table.with_marked(!marked).with_marked(marked), table);
            let (element, shift) = table.slot_at(slots);
            prop_assert_eq!(table.slot_at_once(slots), (element, shift, table.slot_mask()));
        }

        #[test]
        fn an_admission_word_holds_its_parts(
            admit: u16, old: u16, server in 0..Word::MAX_SERVERS,
            generation in 0..Word::GENERATIONS, serving: bool, retired: bool,
        ) {
            let word = Word::new(admit, old, server, generation, serving, retired);
            prop_assert_eq!(word.admit(), admit);
            prop_assert_eq!(word.admit_old(), old);
            prop_assert_eq!(word.server(), server);
            prop_assert_eq!(word.generation(), generation);
            prop_assert_eq!(word.serving(), serving);
            prop_assert_eq!(word.retired(), retired);
            prop_assert_eq!(word.settled(), admit == old);
            prop_assert_eq!(
                word.full(),
                admit == Word::FULL && old == Word::FULL && serving && !retired
            );
        }
    }

    #[test]
    fn marks_of_neighbouring_tables_do_not_meet() {
        let (small, wide) = (Table::elements(16_381, false), Table::elements(16_381, true));
        for (elements, is_wide) in [(small, false), (wide, true)] {
            let first = Table::new(0, 16_381, is_wide, true, 0);
            let second = Table::new(elements, 16_381, is_wide, true, 0);
            assert!(first.mark_at(16_380).0 < second.mark_at(0).0);
        }
    }

    #[test]
    fn ports_lie_as_in_a_packet() {
        let ports = join_ports(40_000u16.to_be(), 80u16.to_be());
        assert_eq!(ports.to_ne_bytes(), [0x9c, 0x40, 0, 80]);
        assert_eq!(split_ports(ports), (40_000u16.to_be(), 80u16.to_be()));
        let key = FlowKey { source: [1; 4], destination: [2; 4], ports, kind: 0 };
        assert_eq!(split_ports(key.reversed().ports), (80u16.to_be(), 40_000u16.to_be()));
        assert_eq!(key.reversed().reversed(), key);
    }
}
