//! Maps without a kernel, for the simulator: what the daemon stores, and when.
//!
//! Every store of a word has a position, counted in this thread. Arrays remember what they held
//! before each, so that a packet can be made to read what it would have read in the middle of a
//! change. Hash maps have a bounded room and evict the entry that was used least recently, or
//! refuse, as the kernel's do.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lb_common::abi::{FEATURES_ALL, Settings};
use lb_common::hash::fmix64;

thread_local! {
    static POSITION: Cell<u64> = const { Cell::new(0) };
    static POINTS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static CLOCK: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Constants of a program whose maps are in memory.
pub(crate) fn settings(seed: u64) -> Settings {
    Settings {
        seed,
        service_mask: 255,
        backend_rows: 4096,
        nat_port_first: 1024,
        nat_port_count: 40_000,
        gue_port: 6080,
        flow_inserts: 1,
        icmp_rate: 1,
        client_mtu: 1500,
        features: FEATURES_ALL,
        padding: 0,
    }
}

/// The position of the newest store.
pub(crate) fn position() -> u64 {
    POSITION.get()
}

/// A position between these just before or after the store of a word that packets decide by;
/// `below` draws a number below its argument.
pub(crate) fn point(first: u64, last: u64, mut below: impl FnMut(u64) -> u64) -> u64 {
    POINTS.with_borrow(|points| {
        let from = points.partition_point(|at| *at < first);
        let later = &points[from..];
        if later.is_empty() {
            return last;
        }
        let at = later[below(later.len() as u64) as usize] - below(2);
        at.clamp(first, last)
    })
}

/// What the program's clock says, if a test has set it.
pub(crate) fn clock() -> Option<Duration> {
    CLOCK.get()
}

/// Sets the program's clock for this thread.
pub(crate) fn set_clock(now: Duration) {
    CLOCK.set(Some(now));
}

/// What the words of an array held before each store.
#[derive(Debug, Default)]
pub(crate) struct History {
    stores: Mutex<HashMap<u32, Vec<(u64, u64)>>>,
    /// Its stores are no [`point`]s: most are of what no packet reads yet.
    pub(crate) is_bulk: bool,
}

impl History {
    /// Notes that a word is about to be written.
    pub(crate) fn note(&self, word: u32, before: u64) {
        POSITION.set(POSITION.get() + 1);
        if !self.is_bulk {
            POINTS.with_borrow_mut(|points| points.push(POSITION.get()));
        }
        lock(&self.stores).entry(word).or_default().push((POSITION.get(), before));
    }

    /// What a word held when the store of this position was the newest; `now` is what it holds.
    pub(crate) fn at(&self, word: u32, position: u64, now: u64) -> u64 {
        let stores = lock(&self.stores);
        let later = stores.get(&word).and_then(|all| all.iter().find(|(at, _)| *at > position));
        later.map_or(now, |(_, before)| *before)
    }

    /// Forgets all: nobody reads what was before any more.
    pub(crate) fn forget(&self) {
        lock(&self.stores).clear();
        POINTS.with_borrow_mut(Vec::clear);
    }
}

/// An entry where it stays as long as it is in the map.
#[derive(Debug)]
struct Place<V> {
    value: Box<UnsafeCell<V>>,
    used: u64,
}

/// A hash map in memory.
#[derive(Debug)]
pub(crate) struct Table<K, V>(Mutex<Inner<K, V>>);

// SAFETY: the mutex guards all but the entries' insides, which only the thread that runs the
// simulation touches.
unsafe impl<K: Send, V: Send> Sync for Table<K, V> {}

#[derive(Debug)]
struct Inner<K, V> {
    entries: HashMap<K, Place<V>, BuildHasherDefault<Mixer>>,
    /// Uses in order; the latest of each key counts.
    order: VecDeque<(u64, K)>,
    uses: u64,
    room: usize,
    evicts: bool,
    evicted: Vec<K>,
    /// Removed entries; someone may still hold them.
    removed: Vec<Place<V>>,
}

impl<K: Copy + Eq + Hash, V: Copy> Table<K, V> {
    /// A map of so much room. One that does not evict refuses.
    pub(crate) fn new(room: usize, evicts: bool) -> Self {
        Self(Mutex::new(Inner {
            entries: HashMap::default(),
            order: VecDeque::new(),
            uses: 0,
            room,
            evicts,
            evicted: Vec::new(),
            removed: Vec::new(),
        }))
    }

    /// Where a key's entry is; counts as a use.
    pub(crate) fn place(&self, key: &K) -> Option<NonNull<V>> {
        let mut inner = lock(&self.0);
        let found = NonNull::new(inner.entries.get(key)?.value.get());
        inner.touch(key);
        found
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        // SAFETY: in the map, so alive; this thread is the only one that writes it.
        lock(&self.0).entries.get(key).map(|place| unsafe { *place.value.get() })
    }

    /// Writes an entry; `false` if there is no room.
    pub(crate) fn set(&self, key: &K, value: V) -> bool {
        let mut inner = lock(&self.0);
        if let Some(place) = inner.entries.get(key) {
            // SAFETY: as in `get`.
            unsafe { *place.value.get() = value };
            inner.touch(key);
            return true;
        }
        if inner.entries.len() >= inner.room && !(inner.evicts && inner.evict()) {
            return false;
        }
        inner.entries.insert(*key, Place { value: Box::new(UnsafeCell::new(value)), used: 0 });
        inner.touch(key);
        true
    }

    pub(crate) fn remove(&self, key: &K) {
        let mut inner = lock(&self.0);
        let gone = inner.entries.remove(key);
        inner.removed.extend(gone);
    }

    pub(crate) fn for_each(&self, mut each: impl FnMut(&K, &V)) {
        // SAFETY: as in `get`.
        lock(&self.0)
            .entries
            .iter()
            .for_each(|(key, place)| each(key, unsafe { &*place.value.get() }));
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.0).entries.len()
    }

    /// A packet has ended: what it held is let go. The keys that were evicted meanwhile.
    pub(crate) fn end_packet(&self) -> Vec<K> {
        let mut inner = lock(&self.0);
        inner.removed.clear();
        std::mem::take(&mut inner.evicted)
    }
}

impl<K: Copy + Eq + Hash, V> Inner<K, V> {
    fn touch(&mut self, key: &K) {
        if !self.evicts {
            return;
        }
        self.uses += 1;
        if let Some(place) = self.entries.get_mut(key) {
            place.used = self.uses;
        }
        self.order.push_back((self.uses, *key));
        if self.order.len() > 64 + 8 * self.entries.len() {
            let entries = &self.entries;
            self.order.retain(|(used, key)| entries.get(key).is_some_and(|p| p.used == *used));
        }
    }

    fn evict(&mut self) -> bool {
        while let Some((used, key)) = self.order.pop_front() {
            if self.entries.get(&key).is_some_and(|place| place.used == used) {
                let gone = self.entries.remove(&key);
                self.removed.extend(gone);
                self.evicted.push(key);
                return true;
            }
        }
        false
    }
}

/// A quick hash of keys that are made by the simulation itself; the same in every run.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        fmix64(self.0)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
