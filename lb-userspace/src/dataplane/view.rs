//! The packet path run by the daemon over the program's live maps, without leaving a trace:
//! what the program *would* do. `lb explain` and the tests of parity use it.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::time::Duration;

use bytemuck::Zeroable;
use lb_common::abi::{
    Address, AddressKey, Bucket, FlowEntry, FlowKey, Limit, NatEntry, RateKey, Server, ServerIdKey,
    ServiceRecord, Settings, Word, list_word,
};
use lb_common::maps::{Maps, NatSlot, NotInserted};
use lb_common::verdict::Event;

use super::maps::LiveMaps;

/// Reads go to the live maps; writes of flows and NAT entries go to a memory of its own, and
/// what was counted is kept for a look afterwards.
#[derive(Debug)]
pub struct View<'m> {
    live: &'m LiveMaps,
    now: u32,
    now_ms: u32,
    flows: RefCell<HashMap<FlowKey, Option<FlowEntry>>>,
    nat: RefCell<HashMap<FlowKey, Option<Box<UnsafeCell<NatEntry>>>>>,
    draft: UnsafeCell<NatEntry>,
    /// Entries that were forgotten; kept, as someone may hold them.
    #[expect(clippy::vec_box, reason = "entries are held by address")]
    removed: RefCell<Vec<Box<UnsafeCell<NatEntry>>>>,
    rates: RefCell<HashMap<RateKey, Bucket>>,
    events: RefCell<Vec<Event>>,
    new_flow: Cell<Option<u32>>,
}

impl<'m> View<'m> {
    /// A view at this second of the monotonic clock.
    #[must_use]
    pub fn new(live: &'m LiveMaps) -> Self {
        let now = monotonic();
        Self {
            live,
            now: now.as_secs() as u32,
            now_ms: now.as_millis() as u32,
            flows: RefCell::default(),
            nat: RefCell::default(),
            draft: UnsafeCell::new(NatEntry::zeroed()),
            removed: RefCell::default(),
            rates: RefCell::default(),
            events: RefCell::default(),
            new_flow: Cell::new(None),
        }
    }

    /// The events counted so far, in order.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.borrow().clone()
    }

    /// What it knows of flows now: those it wrote or forgot, with their entries.
    #[must_use]
    pub fn flows_written(&self) -> Vec<(FlowKey, Option<FlowEntry>)> {
        self.flows.borrow().iter().map(|(key, entry)| (*key, *entry)).collect()
    }

    /// The same of NAT entries, those it only looked for included.
    #[must_use]
    pub fn nat_seen(&self) -> Vec<(FlowKey, Option<NatEntry>)> {
        let nat = self.nat.borrow();
        // SAFETY: this type is used by one thread, and a slot writes only while it is called.
        let copy = |entry: &UnsafeCell<NatEntry>| unsafe { *entry.get() };
        nat.iter().map(|(key, entry)| (*key, entry.as_deref().map(copy))).collect()
    }

    /// The backend row a new flow was counted for.
    #[must_use]
    pub fn new_flow(&self) -> Option<u32> {
        self.new_flow.get()
    }
}

impl Maps for View<'_> {
    fn settings(&self) -> Settings {
        self.live.settings()
    }

    fn service(&self, index: u32) -> Option<&ServiceRecord> {
        self.live.services.peek(index)
    }

    fn table(&self, record: &ServiceRecord) -> u64 {
        record.table
    }

    fn slots(&self, index: u32) -> Option<u64> {
        self.live.tables.get(index)
    }

    fn marks(&self, index: u32) -> Option<u64> {
        self.live.marks.get(index)
    }

    fn word(&self, row: u32) -> Option<Word> {
        self.live.words.get(row).map(Word)
    }

    fn port(&self, row: u32) -> Option<u16> {
        self.live.ports.get(row).map(|port| port as u16)
    }

    fn server(&self, id: u32) -> Option<&Server> {
        self.live.servers.peek(id)
    }

    fn spares(&self, index: u32) -> Option<u64> {
        self.live.spare.get(index)
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        if let Some(known) = self.flows.borrow().get(key) {
            return *known;
        }
        self.live.flows.get(key).ok().flatten()
    }

    fn put_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        self.flows.borrow_mut().insert(*key, Some(*entry));
        true
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.flows.borrow_mut().insert(*key, None);
    }

    fn nat(&self, key: &FlowKey) -> Option<NatSlot<'_>> {
        let mut nat = self.nat.borrow_mut();
        let known = nat.entry(*key).or_insert_with(|| {
            let live = self.live.nat.get(key).ok().flatten();
            live.map(|entry| Box::new(UnsafeCell::new(entry)))
        });
        let entry = NonNull::new(known.as_ref()?.get())?;
        // SAFETY: the box is kept until the view goes, in `nat` or in `removed`, and this type
        // is used by one thread (`RefCell`).
        Some(unsafe { NatSlot::new(entry) })
    }

    fn draft(&self) -> Option<NatSlot<'_>> {
        // SAFETY: lives as long as this view, and this type is used by one thread (`RefCell`).
        NonNull::new(self.draft.get()).map(|at| unsafe { NatSlot::new(at) })
    }

    fn insert_nat(&self, key: &FlowKey, entry: &NatEntry) -> Result<(), NotInserted> {
        if self.nat(key).is_some() {
            return Err(NotInserted::Exists);
        }
        self.nat.borrow_mut().insert(*key, Some(Box::new(UnsafeCell::new(*entry))));
        Ok(())
    }

    fn remove_nat(&self, key: &FlowKey) {
        let gone = self.nat.borrow_mut().insert(*key, None);
        self.removed.borrow_mut().extend(gone.flatten());
    }

    fn vip_prefix(&self, family: u32, address: &Address) -> Option<u32> {
        self.live.prefixes.get(&whole(0, family, address)).ok().flatten()
    }

    fn listed(&self, list: u32, family: u32, source: &Address) -> bool {
        self.live.sources.get(&whole(list, family, source)).ok().flatten().is_some()
    }

    fn rate(&self, key: &RateKey) -> Option<Bucket> {
        let known = self.rates.borrow().get(key).copied();
        known.or_else(|| self.live.rates.get(key).ok().flatten())
    }

    fn put_rate(&self, key: &RateKey, bucket: &Bucket) {
        self.rates.borrow_mut().insert(*key, *bucket);
    }

    fn server_id(&self, key: &ServerIdKey) -> Option<u32> {
        self.live.server_ids.get(key).ok().flatten()
    }

    /// Which processor a packet would come to is not known, so none of its limits is reached.
    fn take(&self, _limit: Limit) -> bool {
        true
    }

    /// Of a packet that is none, nobody is doubted.
    fn doubt(&self, _row: u32) {}

    fn now_ms(&self) -> u32 {
        self.now_ms
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn count_sent(&self, _row: u32, _bytes: u64) {}

    fn count_new(&self, row: u32) {
        self.new_flow.set(Some(row));
    }

    fn count(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}

/// The key that finds the longest prefix of a list which holds an address.
fn whole(list: u32, family: u32, address: &Address) -> AddressKey {
    let bits = if family == 4 { 32 + 32 } else { 32 + 128 };
    AddressKey { bits, list: list_word(list, family), address: *address }
}

/// The clock the program reads, in whole seconds.
#[must_use]
pub fn monotonic_seconds() -> u32 {
    monotonic().as_secs() as u32
}

fn monotonic() -> Duration {
    #[cfg(test)]
    if let Some(now) = super::memory::clock() {
        return now;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec; the clock exists on every Linux this runs on.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
