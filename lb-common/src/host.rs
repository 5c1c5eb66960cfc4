//! The maps in memory, for this crate's tests and the fuzz targets: what the kernel's maps do, and
//! on demand what they do at their limits (no room for a flow, a full NAT table).

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::ptr::NonNull;

use bytemuck::Zeroable;

use crate::abi::{
    ADDRESS_NAT, ADDRESS_VIP, Address, AddressKey, BACKEND_BLOCK, Bucket, FEATURES_ALL, FlowEntry,
    FlowKey, KEY_EMPTY, KIND_DSR, KIND_NAT, Limit, NatEntry, RateKey, SERVICE_NAT, SPARES, Server,
    ServerIdKey, ServiceRecord, Settings, Table, Word, list_word, service_key,
};
use crate::find_service::Service;
use crate::ip::{Ip, V4, V6};
use crate::maglev::{Entry, build};
use crate::maps::{Maps, NatSlot, NotInserted};
use crate::verdict::Event;

/// All maps of a program, and what the packet path counted.
#[derive(Debug)]
pub(crate) struct HostMaps {
    pub(crate) settings: Settings,
    pub(crate) services: Vec<ServiceRecord>,
    pub(crate) tables: Vec<u64>,
    pub(crate) marks: Vec<u64>,
    pub(crate) words: Vec<Cell<Word>>,
    pub(crate) ports: Vec<u16>,
    pub(crate) servers: Vec<Server>,
    pub(crate) spares: Vec<u64>,
    pub(crate) flows: RefCell<HashMap<FlowKey, FlowEntry>>,
    pub(crate) flows_refused: Cell<bool>,
    pub(crate) nat_room: Cell<usize>,
    pub(crate) now: Cell<u32>,
    pub(crate) sent: RefCell<Vec<(u32, u64)>>,
    pub(crate) new_flows: RefCell<Vec<u32>>,
    /// The limit whose tokens are gone.
    pub(crate) exhausted: Cell<Option<Limit>>,
    pub(crate) server_ids: HashMap<ServerIdKey, u32>,
    prefixes: Vec<(AddressKey, u32)>,
    sources: Vec<(AddressKey, u32)>,
    rates: RefCell<HashMap<RateKey, Bucket>>,
    nat: RefCell<HashMap<FlowKey, Box<UnsafeCell<NatEntry>>>>,
    draft: UnsafeCell<NatEntry>,
    #[expect(clippy::vec_box, reason = "slots point to the boxes' insides, which must not move")]
    removed: RefCell<Vec<Box<UnsafeCell<NatEntry>>>>,
    events: RefCell<Vec<Event>>,
    /// Rows that packets spoke against, in order.
    pub(crate) doubted: RefCell<Vec<u32>>,
}

/// The block of backend rows the only service has: not the first, so that offsets show.
pub(crate) const BLOCK: u32 = 1;
/// Its first backend row.
pub(crate) const FIRST: u32 = BLOCK * BACKEND_BLOCK;
/// Slots of its table: a small prime.
pub(crate) const SLOTS: u32 = 1021;

/// Takes everything.
pub(crate) const fn full(server: u32) -> Word {
    Word::new(Word::FULL, Word::FULL, server, 0, true, false)
}

impl HostMaps {
    /// Maps with backends of these weights, one server each, all of them in full service.
    pub(crate) fn with_weights(weights: &[u16]) -> Self {
        let names: Vec<String> = (0..weights.len()).map(|i| format!("b{i}")).collect();
        let entries: Vec<Entry<'_>> = weights
            .iter()
            .zip(&names)
            .enumerate()
            .map(|(i, (&weight, name))| Entry { name, weight, index: i as u16 })
            .collect();
        let table = build(&entries, SLOTS, 0);
        let mut tables = vec![0u64; Table::elements(SLOTS, false) as usize];
        for (slot, index) in table.iter().enumerate() {
            tables[slot / 8] |= u64::from(*index) << (slot % 8 * 8);
        }
        let rows = FIRST as usize + 16;
        let servers = (0..16).map(server).collect();
        let words =
            (0..rows as u32).map(|row| Cell::new(full(row.saturating_sub(FIRST)))).collect();
        Self {
            settings: Settings {
                seed: 7,
                service_mask: 63,
                backend_rows: rows as u32,
                nat_port_first: 2000,
                nat_port_count: 1000,
                gue_port: 6080,
                flow_inserts: 1000,
                icmp_rate: 1000,
                client_mtu: 1500,
                features: FEATURES_ALL,
                padding: 0,
            },
            services: vec![ServiceRecord::zeroed(); 64],
            marks: vec![0; tables.len() / 8],
            tables,
            words,
            ports: vec![0; rows],
            servers,
            spares: vec![0; SPARES as usize / 4],
            flows: RefCell::default(),
            flows_refused: Cell::new(false),
            nat_room: Cell::new(usize::MAX),
            now: Cell::new(1000),
            sent: RefCell::default(),
            new_flows: RefCell::default(),
            exhausted: Cell::new(None),
            server_ids: HashMap::new(),
            prefixes: Vec::new(),
            sources: Vec::new(),
            rates: RefCell::default(),
            nat: RefCell::default(),
            draft: UnsafeCell::new(NatEntry::zeroed()),
            removed: RefCell::default(),
            events: RefCell::default(),
            doubted: RefCell::default(),
        }
    }

    /// The service whose table these maps hold.
    pub(crate) fn service(&self, marked: bool, flags: u32) -> Service {
        let table = Table::new(0, SLOTS, false, marked, BLOCK);
        Service { table, flags, ..Service::default() }
    }

    /// Adds a record; `port` in host order. False if all places of the search are taken.
    pub(crate) fn add_record(
        &mut self,
        family: u32,
        address: Address,
        port: u16,
        protocol: u8,
        flags: u32,
    ) -> bool {
        let key = service_key(port.to_be(), protocol, family);
        let table = self.service(false, flags).table.0;
        self.place(ServiceRecord { key, address, table, flags, ..ServiceRecord::zeroed() })
    }

    /// Puts a record where a look-up finds it. False if all places of the search are taken.
    pub(crate) fn place(&mut self, record: ServiceRecord) -> bool {
        let ServiceRecord { key, address, .. } = record;
        let start = if key & 7 == 4 {
            V4::service_hash(&address, key)
        } else {
            V6::service_hash(&address, key)
        };
        let places = (0..crate::abi::SERVICE_PROBES)
            .map(|probe| (start.wrapping_add(probe) & self.settings.service_mask) as usize);
        for place in places {
            if self.services[place].key == KEY_EMPTY {
                self.services[place] = record;
                return true;
            }
        }
        false
    }

    /// A frontend, its VIP, and the NAT address of its family.
    pub(crate) fn add_frontend(&mut self, family: u32, port: u16, protocol: u8, flags: u32) {
        let kind = if flags & SERVICE_NAT != 0 { KIND_NAT } else { KIND_DSR };
        self.servers.iter_mut().for_each(|server| server.kind = kind);
        let (vip, nat) = if family == 4 { (VIP4, NAT4) } else { (VIP6, NAT6) };
        assert!(self.add_record(family, vip, port, protocol, flags));
        assert!(self.add_record(family, vip, 0, 0, ADDRESS_VIP));
        assert!(self.add_record(family, nat, 0, 0, ADDRESS_NAT));
    }

    /// A VIP prefix, in the map of prefixes alone.
    pub(crate) fn add_prefix(&mut self, family: u32, address: Address, length: u32) {
        let list = list_word(0, family);
        self.prefixes.push((AddressKey { bits: 32 + length, list, address }, length));
    }

    /// Puts a prefix of sources on a list.
    pub(crate) fn list(&mut self, list: u32, family: u32, address: Address, length: u32) {
        let list = list_word(list, family);
        self.sources.push((AddressKey { bits: 32 + length, list, address }, 1));
    }

    /// NAT towards all servers uses this address, which is a VIP, too.
    pub(crate) fn nat_from_vip4(&mut self) {
        self.servers.iter_mut().for_each(|server| server.source = VIP4);
        for record in &mut self.services {
            if record.address == VIP4 && record.key == service_key(0, 0, 4) {
                record.flags = ADDRESS_VIP | ADDRESS_NAT;
            }
        }
    }

    /// Forgets all that packets have left: entries, rates, counts.
    pub(crate) fn forget(&mut self) {
        self.flows.get_mut().clear();
        self.rates.get_mut().clear();
        self.nat.get_mut().clear();
        self.removed.get_mut().clear();
        self.sent.get_mut().clear();
        self.new_flows.get_mut().clear();
        self.events.get_mut().clear();
        self.doubted.get_mut().clear();
    }

    /// The same maps once more, with nothing counted yet.
    pub(crate) fn fork(&self) -> Self {
        let boxed = |(key, entry)| (key, Box::new(UnsafeCell::new(entry)));
        Self {
            settings: self.settings,
            services: self.services.clone(),
            tables: self.tables.clone(),
            marks: self.marks.clone(),
            words: self.words.clone(),
            ports: self.ports.clone(),
            servers: self.servers.clone(),
            spares: self.spares.clone(),
            flows: self.flows.clone(),
            flows_refused: self.flows_refused.clone(),
            nat_room: self.nat_room.clone(),
            now: self.now.clone(),
            sent: RefCell::default(),
            new_flows: RefCell::default(),
            exhausted: self.exhausted.clone(),
            server_ids: self.server_ids.clone(),
            prefixes: self.prefixes.clone(),
            sources: self.sources.clone(),
            rates: self.rates.clone(),
            nat: RefCell::new(self.nat_entries().into_iter().map(boxed).collect()),
            draft: UnsafeCell::new(NatEntry::zeroed()),
            removed: RefCell::default(),
            events: RefCell::default(),
            doubted: RefCell::default(),
        }
    }

    /// What the straight way is to share with the whole path: all that a frame left behind.
    pub(crate) fn left(&self) -> impl PartialEq + core::fmt::Debug {
        let flows = self.flows.borrow().clone();
        let counted = (self.sent.borrow().clone(), self.new_flows.borrow().clone());
        let said = (self.events.borrow().clone(), self.doubted.borrow().clone());
        (counted, said, self.nat_entries(), flows)
    }

    pub(crate) fn set_word(&self, index: u32, word: Word) {
        self.words[(FIRST + index) as usize].set(word);
    }

    /// What was counted since the last call, in order.
    pub(crate) fn take_events(&self) -> Vec<Event> {
        self.events.take()
    }

    /// All NAT entries, as copies.
    pub(crate) fn nat_entries(&self) -> HashMap<FlowKey, NatEntry> {
        let nat = self.nat.borrow();
        // SAFETY: this type is used by one thread, and no slot is being written to.
        nat.iter().map(|(key, entry)| (*key, unsafe { *entry.get() })).collect()
    }
}

pub(crate) const VIP4: Address = [u32::from_ne_bytes([192, 0, 2, 10]), 0, 0, 0];
pub(crate) const NAT4: Address = [u32::from_ne_bytes([10, 0, 0, 254]), 0, 0, 0];
pub(crate) const VIP6: Address = v6(0x10);
pub(crate) const NAT6: Address = v6(0xfe);

/// 2001:db8::…, the last byte given.
pub(crate) const fn v6(last: u8) -> Address {
    [u32::from_ne_bytes([0x20, 1, 0xd, 0xb8]), 0, 0, u32::from_ne_bytes([0, 0, 0, last])]
}

fn server(i: u32) -> Server {
    let at = i as u8;
    Server {
        ethernet: [
            u32::from_ne_bytes([2, 0, 0, 0]),
            u32::from_ne_bytes([0, at, 2, 0]),
            u32::from_ne_bytes([0, 0, 0, 0xbb]),
        ],
        ifindex: 10 + i,
        address: [u32::from_ne_bytes([10, 0, 0, at]), 0, 0, 0],
        source: NAT4,
        kind: KIND_DSR,
        mtu: 1500,
        vlan: 0,
        entropy: 0,
    }
}

impl Maps for HostMaps {
    fn settings(&self) -> Settings {
        self.settings
    }

    fn service(&self, index: u32) -> Option<&ServiceRecord> {
        self.services.get(index as usize)
    }

    fn table(&self, record: &ServiceRecord) -> u64 {
        record.table
    }

    fn slots(&self, index: u32) -> Option<u64> {
        self.tables.get(index as usize).copied()
    }

    fn marks(&self, index: u32) -> Option<u64> {
        self.marks.get(index as usize).copied()
    }

    fn word(&self, row: u32) -> Option<Word> {
        self.words.get(row as usize).map(Cell::get)
    }

    fn port(&self, row: u32) -> Option<u16> {
        self.ports.get(row as usize).copied()
    }

    fn server(&self, id: u32) -> Option<&Server> {
        self.servers.get(id as usize)
    }

    fn spares(&self, index: u32) -> Option<u64> {
        self.spares.get(index as usize).copied()
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        self.flows.borrow().get(key).copied()
    }

    fn put_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        if self.flows_refused.get() {
            return false;
        }
        self.flows.borrow_mut().insert(*key, *entry);
        true
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn nat(&self, key: &FlowKey) -> Option<NatSlot<'_>> {
        let at = NonNull::new(self.nat.borrow().get(key)?.get())?;
        // SAFETY: the box is kept until the maps go, in `nat` or in `removed`, and this type is
        // used by one thread.
        Some(unsafe { NatSlot::new(at) })
    }

    fn draft(&self) -> Option<NatSlot<'_>> {
        // SAFETY: lives as long as these maps, and this type is used by one thread.
        NonNull::new(self.draft.get()).map(|at| unsafe { NatSlot::new(at) })
    }

    fn insert_nat(&self, key: &FlowKey, entry: &NatEntry) -> Result<(), NotInserted> {
        let mut nat = self.nat.borrow_mut();
        if nat.contains_key(key) {
            return Err(NotInserted::Exists);
        }
        if nat.len() >= self.nat_room.get() {
            return Err(NotInserted::Full);
        }
        nat.insert(*key, Box::new(UnsafeCell::new(*entry)));
        Ok(())
    }

    fn remove_nat(&self, key: &FlowKey) {
        let gone = self.nat.borrow_mut().remove(key);
        self.removed.borrow_mut().extend(gone);
    }

    fn vip_prefix(&self, family: u32, address: &Address) -> Option<u32> {
        longest(&self.prefixes, list_word(0, family), address)
    }

    fn listed(&self, list: u32, family: u32, source: &Address) -> bool {
        longest(&self.sources, list_word(list, family), source).is_some()
    }

    fn rate(&self, key: &RateKey) -> Option<Bucket> {
        self.rates.borrow().get(key).copied()
    }

    fn put_rate(&self, key: &RateKey, bucket: &Bucket) {
        self.rates.borrow_mut().insert(*key, *bucket);
    }

    fn server_id(&self, key: &ServerIdKey) -> Option<u32> {
        self.server_ids.get(key).copied()
    }

    fn take(&self, limit: Limit) -> bool {
        let rate = match limit {
            Limit::FlowInsert => self.settings.flow_inserts,
            Limit::Icmp => self.settings.icmp_rate,
            Limit::Reset => 1,
        };
        rate > 0 && self.exhausted.get() != Some(limit)
    }

    fn doubt(&self, row: u32) {
        self.doubted.borrow_mut().push(row);
    }

    fn now_ms(&self) -> u32 {
        self.now.get().wrapping_mul(1000)
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn count_sent(&self, row: u32, bytes: u64) {
        self.sent.borrow_mut().push((row, bytes));
    }

    fn count_new(&self, row: u32) {
        self.new_flows.borrow_mut().push(row);
    }

    fn count(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}

/// What a longest-match map answers.
fn longest(entries: &[(AddressKey, u32)], list: u32, address: &Address) -> Option<u32> {
    let wanted = AddressKey { bits: 0, list, address: *address };
    let bit = |key: &AddressKey, at: u32| {
        let byte = bytemuck::bytes_of(key)[4 + at as usize / 8];
        byte >> (7 - at % 8) & 1
    };
    let matches = |key: &AddressKey| (0..key.bits).all(|at| bit(key, at) == bit(&wanted, at));
    let found = entries.iter().filter(|(key, _)| matches(key)).max_by_key(|(key, _)| key.bits);
    found.map(|(_, value)| *value)
}
