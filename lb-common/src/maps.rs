//! What the packet path asks of its maps: the seam between the kernel, the daemon and the tests.
//!
//! The program implements it on kernel maps, the daemon on its view of them (`lb explain`), the
//! tests on both. Flow entries come back as copies, because an LRU map may reuse an element while
//! a packet holds it.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::abi::{
    Address, Bucket, FlowEntry, FlowKey, Limit, NatEntry, RateKey, Server, ServerIdKey,
    ServiceRecord, Settings, Word,
};
use crate::ip::Ip;
use crate::rules::Rules;
use crate::verdict::Event;

/// Why a NAT entry was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotInserted {
    /// There is one already.
    Exists,
    /// There is no room.
    Full,
}

/// A NAT entry in its map. Read in place: a copy of the whole would take a seventh of the stack.
#[derive(Clone, Copy, Debug)]
pub struct NatSlot<'m> {
    at: NonNull<NatEntry>,
    map: PhantomData<&'m NatEntry>,
}

impl NatSlot<'_> {
    /// The entry at an address.
    ///
    /// # Safety
    ///
    /// The address is of an element that can be read and written, without races that matter,
    /// for the slot's lifetime. In the kernel an element may be freed and taken by a new
    /// connection meanwhile; entries go only when idle for long or void, so at worst one late
    /// packet of a dead connection is translated like one of a new connection.
    #[inline(always)]
    #[must_use]
    pub const unsafe fn new(at: NonNull<NatEntry>) -> Self {
        Self { at, map: PhantomData }
    }

    /// The entry's fields; only those that are used are read.
    #[inline(always)]
    #[must_use]
    pub const fn entry(&self) -> &NatEntry {
        // SAFETY: readable (`new`).
        unsafe { self.at.as_ref() }
    }

    /// Writes the whole entry.
    #[inline(always)]
    pub fn write(self, entry: NatEntry) {
        // SAFETY: writable (`new`).
        unsafe { self.at.as_ptr().write(entry) };
    }

    /// Makes of a draft of the reply entry that of the forward entry.
    #[inline(always)]
    pub fn turn(self, server: &Server, ports: u32, ethernet: &[u32; 3]) {
        let at = self.at.as_ptr();
        // SAFETY: writable (`new`).
        unsafe {
            (*at).source = server.source;
            (*at).destination = server.address;
            (*at).ports = ports;
            (*at).ethernet = *ethernet;
            (*at).state = 0;
        }
    }

    /// Notes that the entry was used.
    #[inline(always)]
    pub fn touch(self, last_seen: u32, state: u32) {
        let at = self.at.as_ptr();
        // SAFETY: writable (`new`).
        unsafe {
            (&raw mut (*at).last_seen).write_volatile(last_seen);
            (&raw mut (*at).state).write_volatile(state);
        }
    }

    /// Changes where the client is.
    #[inline(always)]
    pub fn relocate(self, ethernet: &[u32; 3], ifindex: u32, vlan: u32) {
        let at = self.at.as_ptr();
        // SAFETY: writable (`new`).
        unsafe {
            (&raw mut (*at).ethernet).write_volatile(*ethernet);
            (&raw mut (*at).ifindex).write_volatile(ifindex);
            (&raw mut (*at).vlan).write_volatile(vlan);
        }
    }
}

/// The maps of one program. Array reads return `None` past the end.
pub trait Maps {
    /// The rules of flow affinity that are kept: all, but in the simulator.
    const RULES: Rules = Rules::ALL;

    /// The constants set at load.
    fn settings(&self) -> Settings;
    /// An element of the service table.
    fn service(&self, index: u32) -> Option<&ServiceRecord>;
    /// The table word of a record read before; atomic.
    fn table(&self, record: &ServiceRecord) -> u64;
    /// An element of the table arena.
    fn slots(&self, index: u32) -> Option<u64>;
    /// An element of the marks.
    fn marks(&self, index: u32) -> Option<u64>;
    /// The admission word of a backend row; atomic.
    fn word(&self, row: u32) -> Option<Word>;
    /// The port of a backend row, as in a packet; zero is the frontend's own.
    fn port(&self, row: u32) -> Option<u16>;
    /// A server.
    fn server(&self, id: u32) -> Option<&Server>;
    /// An element of a service's spares.
    fn spares(&self, index: u32) -> Option<u64>;

    /// Looks a flow up in the flow table.
    fn flow(&self, key: &FlowKey) -> Option<FlowEntry>;
    /// Records a flow; whether there was room.
    fn put_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool;
    /// Forgets a flow.
    fn remove_flow(&self, key: &FlowKey);

    /// Looks a flow up in the NAT table.
    fn nat(&self, key: &FlowKey) -> Option<NatSlot<'_>>;
    /// An entry of this processor's own, in no table: where the next one is made. Verifier: on
    /// the stack it would be too large ("combined stack size of 3 calls is 544").
    fn draft(&self) -> Option<NatSlot<'_>>;
    /// Makes an entry if there is none.
    fn insert_nat(&self, key: &FlowKey, entry: &NatEntry) -> Result<(), NotInserted>;
    /// Forgets an entry.
    fn remove_nat(&self, key: &FlowKey);

    /// Length in bits of the longest VIP prefix that holds an address; `None` if none does.
    fn vip_prefix(&self, family: u32, address: &Address) -> Option<u32>;
    /// Whether a source is on a list: of a service's number, or [`crate::abi::LIST_BLOCK`].
    fn listed(&self, list: u32, family: u32, source: &Address) -> bool;
    /// A source's bucket.
    fn rate(&self, key: &RateKey) -> Option<Bucket>;
    /// Writes a source's bucket; where there is no room nothing is limited.
    fn put_rate(&self, key: &RateKey, bucket: &Bucket);
    /// The backend row of a QUIC server id.
    fn server_id(&self, key: &ServerIdKey) -> Option<u32>;
    /// Takes a token of this processor's limit; whether there was one.
    fn take(&self, limit: Limit) -> bool;
    /// [`crate::find_service::find_address`] over these maps, as [`Self::walk`].
    fn address<I: Ip>(&self, address: &Address) -> u32
    where
        Self: Sized,
    {
        crate::find_service::find_address::<I, Self>(self, address)
    }
    /// [`crate::find_service::wider`] over these maps, as [`Self::walk`].
    fn wider<I: Ip>(&self, address: &Address, key: u32) -> u32
    where
        Self: Sized,
    {
        crate::find_service::wider::<I, Self>(self, address, key)
    }
    /// [`crate::pick::walk`] over these maps: in the program a global function, which the verifier
    /// checks once, whoever calls it.
    fn walk(&self, table: u64, service: u32, hash: u64) -> u64
    where
        Self: Sized,
    {
        crate::pick::walk(self, table, service, hash).0
    }
    /// Notes that a packet speaks against the backend of a row: whoever probes it may want to do so
    /// now.
    fn doubt(&self, row: u32);
    /// Milliseconds of the monotonic clock, wrapping.
    fn now_ms(&self) -> u32;
    /// Seconds of the monotonic clock.
    fn now(&self) -> u32;
    /// Counts a packet of so many bytes sent to a backend row.
    fn count_sent(&self, row: u32, bytes: u64);
    /// Counts a new flow of a backend row.
    fn count_new(&self, row: u32);
    /// Counts something on the way.
    fn count(&self, event: Event);
}
