//! The service table in memory: what the program reads, a log of every store, and frontends at
//! random.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use bytemuck::Zeroable;
use lb_common::abi::{
    Address, AddressKey, Bucket, FEATURES_ALL, FlowEntry, FlowKey, Limit, NatEntry, RateKey,
    Server, ServerIdKey, ServiceRecord, Settings, Table, Word,
};
use lb_common::find_service::{Service, find_fragments, find_service};
use lb_common::ip::{Flow, V4, V6, ports};
use lb_common::maps::{Maps, NatSlot, NotInserted};
use lb_common::verdict::Event;
use proptest::prelude::*;

use super::frontends::{Listener, number};
use super::keys::{address, family};
use super::services::Places;
use crate::config::model::{Frontend, Ports, Prefix, Protocol};

/// One store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Store {
    Record(u32, ServiceRecord),
    Prefix(AddressKey, u32),
    NoPrefix(AddressKey),
}

/// What the program reads.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    services: Vec<ServiceRecord>,
    prefixes: BTreeMap<(u32, u32, Address), u32>,
}

/// A table that notes what is stored.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) memory: RefCell<Memory>,
    pub(super) log: RefCell<Vec<Store>>,
}

const PLACES: u32 = 1 << 14;

impl Memory {
    pub(super) fn new() -> Self {
        let services = vec![ServiceRecord::zeroed(); PLACES as usize];
        Self { services, prefixes: BTreeMap::new() }
    }

    pub(super) fn store(&mut self, store: Store) {
        match store {
            Store::Record(index, record) => self.services[index as usize] = record,
            Store::Prefix(key, length) => {
                self.prefixes.insert((key.bits, key.list, key.address), length);
            }
            Store::NoPrefix(key) => {
                self.prefixes.remove(&(key.bits, key.list, key.address));
            }
        }
    }

    /// Records that can be found.
    pub(super) fn records(&self) -> usize {
        self.services.iter().filter(|record| record.key > 1).count()
    }

    /// The service a packet is found to be for, by its flags.
    pub(super) fn find(&self, packet: &Packet) -> Option<usize> {
        let flow = Flow { key: packet.key(), tcp_flags: 2, length: 40 };
        let found = match packet.to {
            IpAddr::V4(_) => find_service::<V4, _>(self, &flow),
            IpAddr::V6(_) => find_service::<V6, _>(self, &flow),
        };
        found.map(|service| service.number as usize)
    }

    /// The same of a fragment.
    pub(super) fn find_fragment(&self, packet: &Packet) -> Option<Service> {
        match packet.to {
            IpAddr::V4(_) => find_fragments::<V4, _>(self, &packet.key()),
            IpAddr::V6(_) => find_fragments::<V6, _>(self, &packet.key()),
        }
    }
}

impl Bed {
    pub(super) fn new() -> Self {
        Self { memory: RefCell::new(Memory::new()), log: RefCell::default() }
    }

    fn store(&self, store: Store) {
        self.memory.borrow_mut().store(store);
        self.log.borrow_mut().push(store);
    }
}

impl Places for &Bed {
    fn settings(&self) -> Settings {
        self.memory.borrow().settings()
    }

    fn record(&self, index: u32) -> Option<ServiceRecord> {
        self.memory.borrow().service(index).copied()
    }

    fn set_record(&self, index: u32, record: ServiceRecord) -> Result<()> {
        self.record(index).context("past the end")?;
        self.store(Store::Record(index, record));
        Ok(())
    }

    fn prefix_room(&self) -> u32 {
        16
    }

    fn set_prefix(&self, key: &AddressKey, length: u32) -> Result<()> {
        self.store(Store::Prefix(*key, length));
        Ok(())
    }

    fn remove_prefix(&self, key: &AddressKey) -> Result<()> {
        self.store(Store::NoPrefix(*key));
        Ok(())
    }
}

/// A packet to a VIP, or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) to: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

impl Packet {
    fn key(&self) -> FlowKey {
        FlowKey {
            source: [1; 4],
            destination: address(self.to),
            ports: ports(40_000, self.port),
            kind: FlowKey::kind_of(family(self.to), number(self.protocol)),
        }
    }

    /// Whose it is, by looking at every frontend.
    pub(super) fn owner(&self, listeners: &[Listener]) -> Option<usize> {
        let to = std::net::SocketAddr::new(self.to, self.port);
        let matching = listeners.iter().filter(|l| l.frontend.matches(to, self.protocol));
        let first = matching.min_by_key(|l| std::cmp::Reverse(l.frontend.specificity()));
        first.map(|listener| listener.service)
    }
}

/// A record of a service, told by its number.
pub(super) fn template(service: usize) -> ServiceRecord {
    let table = Table::new(0, 1021, false, false, service as u32).0;
    ServiceRecord { service: service as u32, table, flags: 7, ..ServiceRecord::zeroed() }
}

const PORTS: [u16; 16] =
    [0, 1, 2, 79, 80, 81, 443, 1023, 1024, 8000, 8010, 8063, 8064, 30_000, 65_534, 65_535];

/// Ports at which something may change.
pub(super) fn edges() -> impl Iterator<Item = u16> {
    PORTS.into_iter().chain([100, 2_000, 8_005, 8_031, 8_032, 8_100, 40_000])
}

/// Addresses in no, one, two and three prefixes, and alone.
pub(super) fn addresses() -> Vec<IpAddr> {
    let four = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 200], [10, 0, 7, 1], [10, 9, 0, 1]];
    let six = ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:7::", "2001:db8:9::", "2001:db9::"];
    let four = four.into_iter().map(IpAddr::from).chain([[11, 0, 0, 1].into()]);
    four.chain(six.into_iter().map(|text| text.parse().unwrap())).collect()
}

fn vip() -> impl Strategy<Value = Prefix> {
    let v4: IpAddr = [10, 0, 0, 1].into();
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    prop_oneof![
        3 => prop::sample::select(vec![0u8, 8, 16, 24, 25, 31, 32])
            .prop_map(move |length| Prefix::around(v4, length)),
        1 => prop::sample::select(vec![32u8, 48, 64, 65, 127, 128])
            .prop_map(move |length| Prefix::around(v6, length)),
        1 => prop::sample::select(addresses()).prop_map(Prefix::host),
    ]
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let port = || prop::sample::select(PORTS.to_vec());
    let ports = (port(), port(), any::<bool>()).prop_map(|(a, b, single)| {
        let last = if single { a } else { b };
        Ports { first: a.min(last), last: a.max(last) }
    });
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    (vip(), ports, protocol).prop_map(|(vip, ports, protocol)| Frontend { vip, ports, protocol })
}

/// Frontends of five services; the even ones keep fragments.
pub(super) fn listeners() -> impl Strategy<Value = Vec<Listener>> {
    prop::collection::vec((frontend(), 0usize..5), 0..14).prop_map(|all| {
        let mut seen = BTreeSet::new();
        // One of port 0 alone has no record, and so its service may count as gone.
        let all = all.into_iter().filter(|(f, _)| f.ports.last > 0 && seen.insert(*f));
        all.map(|(frontend, service)| Listener {
            frontend,
            service,
            keeps_fragments: service % 2 == 0,
        })
        .collect()
    })
}

/// Every address with every edge.
pub(super) fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for to in addresses() {
        for port in edges() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                packets.push(Packet { to, port, protocol });
            }
        }
    }
    packets
}

impl Maps for Memory {
    fn settings(&self) -> Settings {
        Settings { seed: 5, service_mask: PLACES - 1, features: FEATURES_ALL, ..Settings::zeroed() }
    }

    fn service(&self, index: u32) -> Option<&ServiceRecord> {
        self.services.get(index as usize)
    }

    fn table(&self, record: &ServiceRecord) -> u64 {
        record.table
    }

    fn vip_prefix(&self, family: u32, to: &Address) -> Option<u32> {
        let to: IpAddr = match family {
            4 => std::net::Ipv4Addr::from(to[0].to_ne_bytes()).into(),
            _ => std::net::Ipv6Addr::from(bytemuck::cast::<_, [u8; 16]>(*to)).into(),
        };
        let longest = Prefix::host(to).length;
        (0..=longest).rev().find_map(|length| {
            let key = super::keys::prefix_key(0, Prefix::around(to, length));
            self.prefixes.get(&(key.bits, key.list, key.address)).copied()
        })
    }

    fn slots(&self, _: u32) -> Option<u64> {
        None
    }
    fn marks(&self, _: u32) -> Option<u64> {
        None
    }
    fn word(&self, _: u32) -> Option<Word> {
        None
    }
    fn port(&self, _: u32) -> Option<u16> {
        None
    }
    fn server(&self, _: u32) -> Option<&Server> {
        None
    }
    fn spares(&self, _: u32) -> Option<u64> {
        None
    }
    fn flow(&self, _: &FlowKey) -> Option<FlowEntry> {
        None
    }
    fn put_flow(&self, _: &FlowKey, _: &FlowEntry) -> bool {
        false
    }
    fn remove_flow(&self, _: &FlowKey) {}
    fn nat(&self, _: &FlowKey) -> Option<NatSlot<'_>> {
        None
    }
    fn draft(&self) -> Option<NatSlot<'_>> {
        None
    }
    fn insert_nat(&self, _: &FlowKey, _: &NatEntry) -> Result<(), NotInserted> {
        Err(NotInserted::Full)
    }
    fn remove_nat(&self, _: &FlowKey) {}
    fn listed(&self, _: u32, _: u32, _: &Address) -> bool {
        false
    }
    fn rate(&self, _: &RateKey) -> Option<Bucket> {
        None
    }
    fn put_rate(&self, _: &RateKey, _: &Bucket) {}
    fn server_id(&self, _: &ServerIdKey) -> Option<u32> {
        None
    }
    fn take(&self, _: Limit) -> bool {
        false
    }
    fn now_ms(&self) -> u32 {
        0
    }
    fn now(&self) -> u32 {
        0
    }
    fn doubt(&self, _: u32) {}
    fn count_sent(&self, _: u32, _: u64) {}
    fn count_new(&self, _: u32) {}
    fn count(&self, _: Event) {}
}
