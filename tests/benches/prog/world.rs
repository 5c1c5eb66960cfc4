//! The program under test, with services in its maps as the daemon writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context, Result};
use aya::programs::ProgramFd;
use bytemuck::Zeroable;
use lb_common::abi::{
    ADDRESS_NAT, ADDRESS_VIP, BACKEND_BLOCK, FEATURES_ALL, FlowKey, KIND_DSR, KIND_GUE4, KIND_GUE6,
    KIND_IPIP4, KIND_IPIP6, KIND_NAT, LINE, NatEntry, SERVICE_NAT, SERVICE_QUIC, SERVICE_TRACK,
    STATE_REPLY, STATE_USED, Server, ServerIdKey, ServiceRecord, Table, Word, join_ports,
};
use lb_common::maglev::{Entry, build};
use lb_common::verdict::Verdict;
use lb_userspace::config::model::{Limits, Node, Prefix};
use lb_userspace::dataplane::load::{Loaded, load};
use lb_userspace::dataplane::maps::LiveMaps;
use lb_userspace::dataplane::services::{Key, ServiceTable};

use crate::frames::{
    CLIENT4, FIRST_CLIENT_PORT, FIRST_NAT_PORT, NAT_PORTS, NAT_SERVERS, PORT, TUNNEL, client,
    nat_address, server_address, vip_address,
};

const SEED: u64 = 0x5eed_0f40_1dfa_5700;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The interface that a test run's packets come by.
const INGRESS: u32 = 1;

/// How a set of services sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Mode {
    Dsr,
    Nat,
    Ipip4,
    Ipip6,
    Gue4,
    Gue6,
    /// `Ipip4` with `track = "always"`: a look-up in the flow table for each packet.
    Track,
    /// `Ipip4` by QUIC connection id.
    Quic,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dsr => "dsr",
            Self::Nat => "nat",
            Self::Ipip4 => "ipip4",
            Self::Ipip6 => "ipip6",
            Self::Gue4 => "gue4",
            Self::Gue6 => "gue6",
            Self::Track => "ipip4-track",
            Self::Quic => "ipip4-quic",
        }
    }

    /// Bytes it puts in front of a packet.
    pub(crate) const fn overhead(self) -> i32 {
        match self {
            Self::Dsr | Self::Nat => 0,
            Self::Ipip4 | Self::Track | Self::Quic => 20,
            Self::Ipip6 => 40,
            Self::Gue4 => 28,
            Self::Gue6 => 48,
        }
    }

    const fn kind(self) -> u32 {
        match self {
            Self::Dsr => KIND_DSR,
            Self::Nat => KIND_NAT,
            Self::Ipip4 | Self::Track | Self::Quic => KIND_IPIP4,
            Self::Ipip6 => KIND_IPIP6,
            Self::Gue4 => KIND_GUE4,
            Self::Gue6 => KIND_GUE6,
        }
    }

    const fn flags(self) -> u32 {
        match self {
            Self::Nat => SERVICE_NAT,
            Self::Track => SERVICE_TRACK,
            Self::Quic => SERVICE_QUIC,
            _ => 0,
        }
    }
}

/// Services alike in all but their VIP, of a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Set {
    pub(crate) mode: Mode,
    pub(crate) six: bool,
    pub(crate) services: u32,
    pub(crate) backends: u32,
    pub(crate) slots: u32,
}

/// Where a set is in the maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) set: Set,
    /// Number of its first VIP.
    pub(crate) vip: u32,
    /// First backend row, and rows of each service.
    first_row: u32,
    rows: u32,
    /// Number of its first service.
    number: u32,
    /// Where its tables begin.
    first_element: u32,
}

/// The program, and the services it has.
#[derive(Debug)]
pub(crate) struct World {
    loaded: Loaded,
    pub(crate) maps: Arc<LiveMaps>,
    table: ServiceTable,
    sets: Vec<Placed>,
    next_element: u32,
    next_row: u32,
    next_vip: u32,
}

/// Numbers of servers begin at `mode × STRIDE × 2`.
const STRIDE: u32 = 1024;
const MODES: u32 = 8;

impl World {
    /// The program with these sets.
    pub(crate) fn new(sets: &[Set], nat_flows: u32) -> Result<Self> {
        let rows: u32 = sets.iter().map(|set| set.services * rows_of(set)).sum();
        let slots: u32 = sets.iter().map(table_bytes).sum();
        let node = Node {
            nat_ports: FIRST_NAT_PORT..=FIRST_NAT_PORT + NAT_PORTS - 1,
            // Never reached: a test run is one second's packets to a limit.
            icmp_rate: 40_000_000,
            flow_inserts: 40_000_000,
            limits: Limits {
                frontends: sets.iter().map(|set| set.services).sum::<u32>().max(64) * 2,
                backends: rows,
                servers: MODES * STRIDE * 2,
                table_bytes: slots + (1 << 20),
                flows: 4 << 20,
                nat_connections: nat_flows.max(1024),
                server_ids: 1 << 14,
                ..Limits::default()
            },
            ..Node::default()
        };
        let loaded = load(&node, SEED, 1500, false, FEATURES_ALL)?;
        let maps = Arc::clone(&loaded.maps);
        let table = ServiceTable::new(Arc::clone(&maps));
        let mut world = Self {
            loaded,
            maps,
            table,
            sets: Vec::new(),
            next_element: 0,
            next_row: 0,
            next_vip: 0,
        };
        for six in [false, true] {
            let nat = ip(six, nat_address(six));
            let record = ServiceRecord { flags: ADDRESS_NAT, ..ServiceRecord::zeroed() };
            world.table.put(Key::alone(Prefix::host(nat)), record)?;
        }
        for set in sets {
            world.place(*set)?;
        }
        Ok(world)
    }

    pub(crate) fn placed(&self, set: &Set) -> Result<Placed> {
        let found = self.sets.iter().find(|placed| placed.set == *set);
        found.copied().context("the world lacks this set")
    }

    pub(crate) fn fd(&mut self) -> Result<ProgramFd> {
        Ok(self.loaded.program()?.fd()?.try_clone()?)
    }

    pub(crate) fn instructions(&self) -> Option<u32> {
        self.loaded.verified_instructions
    }

    /// Packets that ended at backends, and in verdicts that send or pass.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let ended = [
            Verdict::NatReply,
            Verdict::EchoReply,
            Verdict::PassNotVip,
            Verdict::PassNoService,
            Verdict::TooBigSent,
        ];
        (self.maps.sent(self.next_row), ended.iter().map(|v| self.maps.verdicts(*v)).sum())
    }

    /// All verdicts that were counted so far, for who looks for the reason.
    pub(crate) fn verdicts(&self) -> Vec<(&'static str, u64)> {
        let counted = Verdict::ALL.iter().map(|v| (v.name(), self.maps.verdicts(*v)));
        counted.filter(|(_, count)| *count != 0).collect()
    }

    fn place(&mut self, set: Set) -> Result<()> {
        let placed = Placed {
            set,
            vip: self.next_vip,
            first_row: self.next_row,
            rows: rows_of(&set),
            number: self.next_vip,
            first_element: self.next_element,
        };
        for id in 0..set.backends {
            let server = server(set, id);
            self.maps.servers.set(server_number(set, id), server)?;
        }
        let slots = build_slots(&set);
        for service in 0..set.services {
            self.place_service(&placed, service, &slots)?;
        }
        self.next_row += set.services * placed.rows;
        // A whole block of the address, so that it can be masked.
        self.next_vip += set.services.max(64);
        self.sets.push(placed);
        Ok(())
    }

    fn place_service(&mut self, placed: &Placed, service: u32, slots: &[u16]) -> Result<()> {
        let set = placed.set;
        let first_row = placed.first_row + service * placed.rows;
        for id in 0..set.backends {
            self.maps.words.set(first_row + id, full(set, id).0)?;
        }
        let wide = is_wide(&set);
        let block = first_row / BACKEND_BLOCK;
        let table = Table::new(self.next_element, set.slots, wide, false, block);
        self.write_slots(table, slots)?;
        // Behind the slots there is the shadow's table word, and a shadow.
        let elements = Table::elements(set.slots, wide) + LINE;
        let shadow = Table::new(self.next_element + elements, set.slots, wide, false, block);
        self.maps.tables.set(table.shadow_at(), shadow.0)?;
        let previous: Vec<u16> =
            slots.iter().map(|index| ((u32::from(*index) + 1) % set.backends) as u16).collect();
        self.write_slots(shadow, &previous)?;
        self.next_element += 2 * elements;
        let number = placed.number + service;
        let record = ServiceRecord {
            service: number,
            table: table.0,
            flags: set.mode.flags(),
            quic: lb_common::quic::config(0, 2),
            ..ServiceRecord::zeroed()
        };
        let vip = ip(set.six, vip_address(set.six, placed.vip + service));
        for protocol in [TCP, UDP] {
            self.table.put(Key::exact(vip, PORT, protocol), record)?;
        }
        let alone = ServiceRecord { flags: ADDRESS_VIP, ..ServiceRecord::zeroed() };
        self.table.put(Key::alone(Prefix::host(vip)), alone)?;
        if set.mode == Mode::Quic {
            for id in 0..64u32 {
                let bytes = [0, id as u8, 0, 0, 0, 0, 0, 0];
                let key =
                    ServerIdKey { service: number, padding: 0, id: u64::from_ne_bytes(bytes) };
                self.maps.server_ids.set(&key, first_row + id % set.backends)?;
            }
        }
        Ok(())
    }

    fn write_slots(&self, table: Table, slots: &[u16]) -> Result<()> {
        let per_element = if table.wide() { 4 } else { 8 };
        for (at, chunk) in (0..).zip(slots.chunks(per_element)) {
            let bits = if table.wide() { 16 } else { 8 };
            let element = chunk.iter().rev().fold(0u64, |e, slot| e << bits | u64::from(*slot));
            self.maps.tables.set(table.base() + at, element)?;
        }
        Ok(())
    }

    /// Writes the words of the first `count` backends of every service of a set; the others are
    /// full.
    pub(crate) fn set_words(
        &self,
        placed: &Placed,
        count: u32,
        word: impl Fn(u32) -> Word,
    ) -> Result<()> {
        for service in 0..placed.set.services {
            for id in 0..placed.set.backends {
                let word = if id < count {
                    word(server_number(placed.set, id))
                } else {
                    full(placed.set, id)
                };
                self.maps.words.set(placed.first_row + service * placed.rows + id, word.0)?;
            }
        }
        Ok(())
    }

    /// All slots of a set have another previous owner and are marked, or none.
    pub(crate) fn set_shadowed(&mut self, placed: &Placed, shadowed: bool) -> Result<()> {
        let Placed { set, first_element, .. } = *placed;
        let elements = 2 * set.services * (Table::elements(set.slots, is_wide(&set)) + LINE);
        for element in first_element / 8..(first_element + elements) / 8 {
            self.maps.marks.set(element, if shadowed { u64::MAX } else { 0 })?;
        }
        for service in placed.number..placed.number + placed.set.services {
            self.table.update(service, |record| {
                let table = Table(record.table);
                record.table = table.with_shadowed(shadowed).with_marked(shadowed).0;
            })?;
        }
        Ok(())
    }

    /// Opens the connections that the packets of [`crate::frames::to_vips`] and
    /// [`crate::frames::replies`] belong to, as if the program had.
    pub(crate) fn open_connections(&self, placed: &Placed, flows: u32) -> Result<()> {
        let six = placed.set.six;
        let kind = FlowKey::kind_of(if six { 6 } else { 4 }, TCP);
        let words = |address: [u32; 4]| address.map(u32::to_be);
        for flow in 0..flows {
            let mut source = client(six);
            source[if six { 3 } else { 0 }] += flow;
            let to = placed.vip + flow % placed.set.services;
            let port = FIRST_CLIENT_PORT + (flow >> 3 & 0x7fff.min(flows - 1)) as u16;
            let from_client = FlowKey {
                source: words(source),
                destination: words(vip_address(six, to)),
                ports: join_ports(port.to_be(), PORT.to_be()),
                kind,
            };
            let nat_port = FIRST_NAT_PORT + (flow / NAT_SERVERS) as u16;
            let server = flow % NAT_SERVERS;
            let to_server = FlowKey {
                source: words(nat_address(six)),
                destination: words(server_address(six, server)),
                ports: join_ports(nat_port.to_be(), PORT.to_be()),
                kind,
            };
            let row =
                placed.first_row + (to - placed.vip) * placed.rows + server % placed.set.backends;
            self.insert(&from_client, &to_server, row, 0, [0x0000_0002, 0x0002_bb00, 0xcc00_0000])?;
            let back = from_client.reversed();
            self.insert(
                &to_server.reversed(),
                &back,
                row,
                STATE_REPLY,
                [0x0000_0002, 0x0002_cc00, 0xbb00_0000],
            )?;
        }
        Ok(())
    }

    fn insert(
        &self,
        key: &FlowKey,
        to: &FlowKey,
        row: u32,
        state: u32,
        ethernet: [u32; 3],
    ) -> Result<()> {
        let entry = NatEntry {
            source: to.source,
            destination: to.destination,
            ports: to.ports,
            row,
            ethernet,
            ifindex: INGRESS,
            generation: 0,
            last_seen: 0,
            state: state | STATE_USED,
            vlan: 0,
        };
        self.maps.nat.set(key, entry)
    }
}

/// Whether slots take two bytes.
fn is_wide(set: &Set) -> bool {
    set.backends > 240
}

fn rows_of(set: &Set) -> u32 {
    set.backends.next_multiple_of(BACKEND_BLOCK)
}

/// Bytes of the arena, room for a shadow included.
fn table_bytes(set: &Set) -> u32 {
    let elements = Table::elements(set.slots, is_wide(set)) + LINE;
    elements * 8 * 2 * set.services
}

/// Bytes that packets to a set touch of what all flows share: slots, words, counters, servers,
/// records.
pub(crate) fn footprint(set: &Set) -> u64 {
    let services = u64::from(set.services);
    let slot = if is_wide(set) { 2 } else { 1 };
    let rows = services * u64::from(set.backends);
    services * u64::from(set.slots) * slot
        + rows * (8 + 16)
        + u64::from(set.backends) * 64
        + services * 64
}

fn build_slots(set: &Set) -> Vec<u16> {
    let names: Vec<String> = (0..set.backends).map(|id| format!("web-{id}")).collect();
    let entries: Vec<Entry<'_>> =
        (0..).zip(&names).map(|(index, name)| Entry { name, weight: 1, index }).collect();
    build(&entries, set.slots, SEED)
}

fn server_number(set: Set, id: u32) -> u32 {
    (set.mode as u32 * 2 + u32::from(set.six)) * STRIDE + id
}

fn full(set: Set, id: u32) -> Word {
    Word::new(Word::FULL, Word::FULL, server_number(set, id), 0, true, false)
}

fn server(set: Set, id: u32) -> Server {
    let outer_six = match set.mode {
        Mode::Dsr | Mode::Nat => set.six,
        Mode::Ipip6 | Mode::Gue6 => true,
        Mode::Ipip4 | Mode::Gue4 | Mode::Track | Mode::Quic => false,
    };
    let source =
        if set.mode == Mode::Nat { nat_address(set.six) } else { TUNNEL[usize::from(outer_six)] };
    let [high, low] = (id as u16).to_be_bytes();
    Server {
        ethernet: bytemuck::cast([2u8, 0, 0, 1, high, low, 2, 0, 0, 0, 0, 0xbb]),
        ifindex: INGRESS,
        address: server_address(outer_six, id).map(u32::to_be),
        source: source.map(u32::to_be),
        kind: set.mode.kind(),
        mtu: 1500,
        vlan: 0,
        entropy: 0xffffu32.to_be(),
    }
}

/// Where the tunnels of these modes come from.
pub(crate) fn tunnel_source(six: bool) -> IpAddr {
    ip(six, TUNNEL[usize::from(six)])
}

fn ip(six: bool, words: [u32; 4]) -> IpAddr {
    if six {
        let bytes: [u8; 16] = bytemuck::cast(words.map(u32::to_be));
        Ipv6Addr::from(bytes).into()
    } else {
        Ipv4Addr::from(words[0]).into()
    }
}

const _: () = assert!(CLIENT4 & 0xff_ffff == 0, "clients are counted from here");
