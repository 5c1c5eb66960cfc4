//! The kernel's maps, and the packet path's view of them.
//!
//! Sizes are set by the daemon at load; those given here are the least that works. Arrays are
//! mapped into the daemon's memory, so a word there is one store, seen here by the next packet.

use core::arch::asm;
use core::ptr::NonNull;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, generated::bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap};
use aya_ebpf::programs::XdpContext;
use lb_common::abi::{
    Address, AddressKey, Bucket, DOUBTS as DOUBT_PLACES, FEATURES_ALL, FlowEntry, FlowKey, LIMITS,
    Limit, NatEntry, RateKey, Server, ServerIdKey, ServiceRecord, Settings, Traffic, Word,
    doubt_word, list_word,
};
use lb_common::ip::Ip;
use lb_common::limit::Rate;
use lb_common::maps::{Maps, NatSlot, NotInserted};
use lb_common::verdict::{EVENT_BASE, Event, ROW, Verdict};

use crate::parts;

#[map]
static SERVICES: Array<ServiceRecord> = Array::with_max_entries(8, BPF_F_MMAPABLE);
#[map]
static TABLES: Array<u64> = Array::with_max_entries(8, BPF_F_MMAPABLE);
#[map]
static MARKS: Array<u64> = Array::with_max_entries(8, BPF_F_MMAPABLE);
#[map]
static WORDS: Array<u64> = Array::with_max_entries(8, BPF_F_MMAPABLE);
#[map]
static PORTS: Array<u64> = Array::with_max_entries(8, BPF_F_MMAPABLE);
#[map]
static SERVERS: Array<Server> = Array::with_max_entries(8, BPF_F_MMAPABLE);
#[map]
static SPARE: Array<u64> = Array::with_max_entries(8, BPF_F_MMAPABLE);
#[map]
static TRAFFIC: Array<Traffic> = Array::with_max_entries(8, BPF_F_MMAPABLE);
#[map]
static NEW_FLOWS: Array<u64> = Array::with_max_entries(8, BPF_F_MMAPABLE);
#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(ROW, BPF_F_MMAPABLE);
#[map]
static DRAFTS: Array<NatEntry> = Array::with_max_entries(1, 0);
#[map]
static FLOWS: LruHashMap<FlowKey, FlowEntry> = LruHashMap::with_max_entries(8, 0);
#[map]
static NAT: HashMap<FlowKey, NatEntry> = HashMap::with_max_entries(8, BPF_F_NO_PREALLOC);
#[map]
static DEVICES: DevMapHash = DevMapHash::with_max_entries(8, 0);
#[map]
static PREFIXES: LpmTrie<Listed, u32> = LpmTrie::with_max_entries(8, 0);
#[map]
static PREFIX_COUNT: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static SOURCES: LpmTrie<Listed, u32> = LpmTrie::with_max_entries(8, 0);
#[map]
static RATES: LruHashMap<RateKey, Bucket> = LruHashMap::with_max_entries(8, 0);
#[map]
static BUCKETS: Array<Bucket> = Array::with_max_entries(LIMITS, BPF_F_MMAPABLE);
#[map]
static DOUBTS: Array<u64> = Array::with_max_entries(DOUBT_PLACES, BPF_F_MMAPABLE);
#[map]
static SERVER_IDS: HashMap<ServerIdKey, u32> = HashMap::with_max_entries(8, 0);

/// List and address, as in [`AddressKey`] behind its bits.
type Listed = [u32; 5];
const _: () = assert!(size_of::<Key<Listed>>() == size_of::<AddressKey>());

/// Constants to the verifier: branches they rule out are pruned.
#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> = Global::new(Settings {
    seed: 0,
    service_mask: 7,
    backend_rows: 8,
    nat_port_first: 1024,
    nat_port_count: 1,
    gue_port: 6080,
    flow_inserts: 1,
    icmp_rate: 1,
    client_mtu: 1500,
    features: FEATURES_ALL,
    padding: 0,
});

/// The settings; only what is used of them is read. `Global::load` reads all of it each time, as it
/// is volatile: the compiler must not take the initial value for the real one. So here it does not
/// see where the address is from.
#[inline(always)]
fn settings() -> Settings {
    let mut at = (&raw const SETTINGS).expose_provenance();
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags)) };
    // SAFETY: `Global` is its value, which is never written once the program is loaded.
    unsafe { *core::ptr::with_exposed_provenance::<Settings>(at) }
}

/// Whether drops are written to the log: rare, for a person who looks for one.
#[unsafe(no_mangle)]
static LOG_DROPS: Global<u32> = Global::new(0);

/// The maps above, as the packet path sees them.
pub(crate) struct KernelMaps;

impl Maps for KernelMaps {
    #[inline(always)]
    fn settings(&self) -> Settings {
        settings()
    }

    #[inline(always)]
    fn service(&self, index: u32) -> Option<&ServiceRecord> {
        SERVICES.get(index)
    }

    #[inline(always)]
    fn table(&self, record: &ServiceRecord) -> u64 {
        // SAFETY: a reference is valid to read; volatile, so that it is read once and whole.
        unsafe { core::ptr::read_volatile(&raw const record.table) }
    }

    #[inline(always)]
    fn slots(&self, index: u32) -> Option<u64> {
        TABLES.get(index).copied()
    }

    #[inline(always)]
    fn marks(&self, index: u32) -> Option<u64> {
        MARKS.get(index).copied()
    }

    #[inline(always)]
    fn word(&self, row: u32) -> Option<Word> {
        let word = WORDS.get_ptr(row)?;
        // SAFETY: an array element is valid for the program's run; volatile, so that all parts
        // of the word are of one store.
        Some(Word(unsafe { core::ptr::read_volatile(word) }))
    }

    #[inline(always)]
    fn port(&self, row: u32) -> Option<u16> {
        PORTS.get(row).map(|port| *port as u16)
    }

    #[inline(always)]
    fn server(&self, id: u32) -> Option<&Server> {
        SERVERS.get(id)
    }

    #[inline(always)]
    fn spares(&self, index: u32) -> Option<u64> {
        SPARE.get(index).copied()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        // SAFETY: the element may be reused while it is copied; then its generation, row or time
        // are another flow's, and at worst one packet follows that flow's backend.
        unsafe { FLOWS.get(key) }.copied()
    }

    #[inline(always)]
    fn put_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        FLOWS.insert(key, entry, 0).is_ok()
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        // Gone already is as good.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn nat(&self, key: &FlowKey) -> Option<NatSlot<'_>> {
        let entry = NonNull::new(NAT.get_ptr_mut(key)?)?;
        // SAFETY: an element stays readable and writable for the program's run, even when it is
        // freed and taken anew; `NatSlot::new` says why that does no harm.
        Some(unsafe { NatSlot::new(entry) })
    }

    #[inline(always)]
    fn draft(&self) -> Option<NatSlot<'_>> {
        let entry = NonNull::new(DRAFTS.get_ptr_mut(processor())?)?;
        // SAFETY: an array element is valid for the program's run, and this one is this
        // processor's, where XDP programs do not preempt each other.
        Some(unsafe { NatSlot::new(entry) })
    }

    #[inline(always)]
    fn insert_nat(&self, key: &FlowKey, entry: &NatEntry) -> Result<(), NotInserted> {
        const EEXIST: i32 = -17;
        match NAT.insert(key, entry, u64::from(BPF_NOEXIST)) {
            Ok(()) => Ok(()),
            Err(EEXIST) => Err(NotInserted::Exists),
            Err(_) => Err(NotInserted::Full),
        }
    }

    #[inline(always)]
    fn remove_nat(&self, key: &FlowKey) {
        let _ = NAT.remove(key);
    }

    #[inline(always)]
    fn vip_prefix(&self, family: u32, address: &Address) -> Option<u32> {
        // Most nodes have none, and a look-up of the longest match is a dear one.
        match PREFIX_COUNT.get(0) {
            Some(count) if *count != 0 => longest_prefix(family, address),
            _ => None,
        }
    }

    #[inline(always)]
    fn listed(&self, list: u32, family: u32, source: &Address) -> bool {
        SOURCES.get(longest(list, family, source)).is_some()
    }

    #[inline(always)]
    fn rate(&self, key: &RateKey) -> Option<Bucket> {
        // SAFETY: as in `flow`: at worst one packet is judged by another source's bucket.
        unsafe { RATES.get(key) }.copied()
    }

    #[inline(always)]
    fn put_rate(&self, key: &RateKey, bucket: &Bucket) {
        // Without room the source is not limited, which is said in the manual.
        let _ = RATES.insert(key, bucket, 0);
    }

    #[inline(always)]
    fn server_id(&self, key: &ServerIdKey) -> Option<u32> {
        // SAFETY: a row that is being replaced is the server's old one or its new one.
        unsafe { SERVER_IDS.get(key) }.copied()
    }

    #[inline(always)]
    fn take(&self, limit: Limit) -> bool {
        let Some(bucket) = BUCKETS.get_ptr_mut(processor() * LIMITS + limit as u32) else {
            return false;
        };
        let rate = Rate::of(&settings(), limit);
        // SAFETY: the bucket is this processor's, as in `count_sent`.
        let (after, got) = rate.take(unsafe { *bucket }, self.now_ms());
        // SAFETY: as above.
        unsafe { *bucket = after };
        got
    }

    #[inline(always)]
    fn address<I: Ip>(&self, address: &Address) -> u32 {
        let address = &raw const *address;
        if I::FAMILY == 4 { parts::address4(address) } else { parts::address6(address) }
    }

    #[inline(always)]
    fn wider<I: Ip>(&self, address: &Address, key: u32) -> u32 {
        let address = &raw const *address;
        if I::FAMILY == 4 { parts::wider4(address, key) } else { parts::wider6(address, key) }
    }

    #[inline(always)]
    fn walk(&self, table: u64, service: u32, hash: u64) -> u64 {
        parts::walk(table, service, hash)
    }

    #[inline(always)]
    fn doubt(&self, row: u32) {
        note_doubt(row, self.now_ms());
    }

    #[inline(always)]
    fn now_ms(&self) -> u32 {
        // SAFETY: a plain helper call.
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000) as u32
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: a plain helper call.
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn count_sent(&self, row: u32, bytes: u64) {
        if let Some(traffic) = TRAFFIC.get_ptr_mut(row_of_this_processor(row)) {
            // SAFETY: the row is this processor's, and XDP programs do not preempt each other
            // on one, so a plain add loses nothing.
            unsafe {
                (*traffic).packets += 1;
                (*traffic).bytes += bytes;
            }
        }
    }

    #[inline(always)]
    fn count_new(&self, row: u32) {
        add_one(&NEW_FLOWS, row_of_this_processor(row));
    }

    #[inline(always)]
    fn count(&self, event: Event) {
        count_at(EVENT_BASE + event as u32);
    }
}

/// Sends the frame out of an interface that the daemon lists; whether it does.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> Option<u32> {
    DEVICES.redirect(ifindex, 0).ok()
}

/// Not inlined: its key is 24 bytes of stack, and it has several callers.
#[inline(never)]
fn longest_prefix(family: u32, address: &Address) -> Option<u32> {
    PREFIXES.get(longest(0, family, address)).copied()
}

/// A function of its own: its stack is not the path's.
#[inline(never)]
fn note_doubt(row: u32, now_ms: u32) {
    if let Some(place) = DOUBTS.get_ptr_mut(row % DOUBT_PLACES) {
        // SAFETY: an array element is valid for the program's run; one aligned store, so that
        // processors which share it do not tear it.
        unsafe { core::ptr::write_volatile(place, doubt_word(row, now_ms)) };
    }
}

/// The key that finds the longest prefix of a list which holds an address.
#[inline(always)]
fn longest(list: u32, family: u32, address: &Address) -> Key<Listed> {
    let [a, b, c, d] = *address;
    let bits = if family == 4 { 32 + 32 } else { 32 + 128 };
    Key::new(bits, [list_word(list, family), a, b, c, d])
}

/// Counts the end of a frame that was not sent to a backend.
#[inline(always)]
pub(crate) fn count_verdict(verdict: Verdict) {
    count_at(verdict as u32);
}

/// Logs a dropped frame, if asked to at load. A function of its own: its stack is not the path's.
#[inline(never)]
pub(crate) fn log_drop(ctx: &XdpContext, verdict: Verdict) {
    if LOG_DROPS.load() != 0 {
        aya_log_ebpf::warn!(ctx, "dropped: {}", verdict.name());
    }
}

#[inline(always)]
fn row_of_this_processor(row: u32) -> u32 {
    processor() * settings().backend_rows + row
}

#[inline(always)]
fn count_at(counter: u32) {
    add_one(&COUNTERS, processor() * ROW + counter);
}

#[inline(always)]
fn add_one(counters: &Array<u64>, index: u32) {
    if let Some(count) = counters.get_ptr_mut(index) {
        // SAFETY: as in `count_sent`.
        unsafe { *count += 1 };
    }
}

#[inline(always)]
fn processor() -> u32 {
    // SAFETY: a plain helper call.
    unsafe { bpf_get_smp_processor_id() }
}
