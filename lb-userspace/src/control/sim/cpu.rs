//! One simulated processor: the maps as a packet on it sees them.
//!
//! A packet that began before a change reads every cell as it was at some position between its
//! beginning and the newest store. Its reads never go backwards, nor do those of the packets
//! that this processor takes after it.

use std::cell::{Cell, RefCell};

use lb_common::abi::{
    Address, Bucket, FlowEntry, FlowKey, Limit, NatEntry, RateKey, Server, ServerIdKey,
    ServiceRecord, Settings, Word,
};
use lb_common::maps::{Maps, NatSlot, NotInserted};
use lb_common::rules::{Rule, Rules};
use lb_common::verdict::Event;

use super::random::Random;
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::memory;

/// The rules of the packet path, in the order of [`rules`].
pub(super) const RULES: [Rule; 10] = [
    Rule::RecordAgreeing,
    Rule::RefusedTakesOld,
    Rule::ClosingStays,
    Rule::Overwrite,
    Rule::SynLeavesRetired,
    Rule::SynLeavesClosing,
    Rule::ShadowEveryStep,
    Rule::ShadowTouches,
    Rule::DatagramsExist,
    Rule::MarksAfterWalk,
];

/// All rules for 0, else all but one.
const fn rules(broken: usize) -> Rules {
    if broken == 0 { Rules::ALL } else { Rules::without(RULES[broken - 1]) }
}

/// What a packet counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    events: RefCell<[u64; 32]>,
}

impl Counted {
    pub(super) fn of(&self, event: Event) -> u64 {
        self.events.borrow()[event as usize]
    }
}

/// The maps as one packet sees them.
pub(super) struct Cpu<'w, const BROKEN: usize> {
    live: &'w LiveMaps,
    /// The position read at last, and the newest.
    at: Cell<u64>,
    newest: u64,
    /// How often a read finds more than the one before, in a thousand.
    moves: u64,
    random: RefCell<Random>,
    now_ms: u64,
    /// Inserts fail; tokens are out.
    pub(super) refuses: bool,
    pub(super) limited: bool,
    pub(super) counted: Counted,
    /// What was put together of words of different times.
    records: RefCell<Vec<*mut ServiceRecord>>,
    servers: RefCell<Vec<*mut Server>>,
    draft: NatSlot<'w>,
}

impl<'w, const BROKEN: usize> Cpu<'w, BROKEN> {
    pub(super) fn new(
        live: &'w LiveMaps,
        positions: (u64, u64),
        now_ms: u64,
        mut random: Random,
        draft: NatSlot<'w>,
    ) -> Self {
        // Some packets have read all before they were held up.
        let moves = [0, 120, 120, 400][random.below(4) as usize];
        Self {
            live,
            at: Cell::new(positions.0),
            newest: positions.1,
            moves,
            random: RefCell::new(random),
            now_ms,
            refuses: false,
            limited: false,
            counted: Counted::default(),
            records: RefCell::default(),
            servers: RefCell::default(),
            draft,
        }
    }

    /// The position of the last read.
    pub(super) fn position(&self) -> u64 {
        self.at.get()
    }

    /// The position of the next read, if it is not the newest.
    fn read(&self) -> Option<u64> {
        let at = self.at.get();
        if at == self.newest {
            return None;
        }
        let mut random = self.random.borrow_mut();
        if random.permille(self.moves) {
            let to = match random.below(3) {
                0 => self.newest - random.below(self.newest - at + 1),
                _ => memory::point(at, self.newest, |n| random.below(n)),
            };
            self.at.set(to);
        }
        Some(self.at.get()).filter(|at| *at != self.newest)
    }
}

impl<const BROKEN: usize> Drop for Cpu<'_, BROKEN> {
    fn drop(&mut self) {
        for record in self.records.take() {
            // SAFETY: from `Box::into_raw`, once; who borrowed it borrowed `self`.
            drop(unsafe { Box::from_raw(record) });
        }
        for server in self.servers.take() {
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(server) });
        }
    }
}

impl<const BROKEN: usize> Maps for Cpu<'_, BROKEN> {
    const RULES: Rules = rules(BROKEN);

    fn settings(&self) -> Settings {
        self.live.settings()
    }

    fn service(&self, index: u32) -> Option<&ServiceRecord> {
        let Some(at) = self.read() else { return self.live.services.peek(index) };
        let mut words = [0u64; 8];
        for (word, i) in words.iter_mut().zip(0..) {
            *word = self.live.services.word_at(index, i, at)?;
        }
        // Address and key were compared before the rest is read. The table word may be read before
        // the flags, or after.
        let flags_first = self.random.borrow_mut().permille(500);
        let mut take = |range: std::ops::Range<usize>| {
            let at = self.read().unwrap_or(self.newest);
            for i in range {
                words[i] = self.live.services.word_at(index, i as u32, at).unwrap_or_default();
            }
        };
        if flags_first {
            take(4..8);
            take(3..4);
        } else {
            take(3..4);
            take(4..8);
        }
        let record = Box::into_raw(Box::new(bytemuck::cast::<_, ServiceRecord>(words)));
        self.records.borrow_mut().push(record);
        // SAFETY: kept until `self` goes.
        Some(unsafe { &*record })
    }

    fn table(&self, record: &ServiceRecord) -> u64 {
        record.table
    }

    fn slots(&self, index: u32) -> Option<u64> {
        match self.read() {
            None => self.live.tables.get(index),
            Some(at) => self.live.tables.word_at(index, 0, at),
        }
    }

    fn marks(&self, index: u32) -> Option<u64> {
        match self.read() {
            None => self.live.marks.get(index),
            Some(at) => self.live.marks.word_at(index, 0, at),
        }
    }

    fn word(&self, row: u32) -> Option<Word> {
        let word = match self.read() {
            None => self.live.words.get(row),
            Some(at) => self.live.words.word_at(row, 0, at),
        };
        word.map(Word)
    }

    fn port(&self, row: u32) -> Option<u16> {
        self.live.ports.get(row).map(|port| port as u16)
    }

    fn server(&self, id: u32) -> Option<&Server> {
        let Some(at) = self.read() else { return self.live.servers.peek(id) };
        let mut words = [0u64; 8];
        for (word, i) in words.iter_mut().zip(0..) {
            *word = self.live.servers.word_at(id, i, at)?;
        }
        let server = Box::into_raw(Box::new(bytemuck::cast::<_, Server>(words)));
        self.servers.borrow_mut().push(server);
        // SAFETY: kept until `self` goes.
        Some(unsafe { &*server })
    }

    fn spares(&self, index: u32) -> Option<u64> {
        match self.read() {
            None => self.live.spare.get(index),
            Some(at) => self.live.spare.word_at(index, 0, at),
        }
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        // SAFETY: the entry is in the map, and this thread is the only one.
        self.live.flows.memory().place(key).map(|at| unsafe { *at.as_ptr() })
    }

    fn put_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        let is_there = self.live.flows.memory().get(key).is_some();
        (is_there || !self.refuses) && self.live.flows.memory().set(key, *entry)
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.live.flows.memory().remove(key);
    }

    fn nat(&self, key: &FlowKey) -> Option<NatSlot<'_>> {
        // SAFETY: removed entries are kept until the packet ends, and this thread is the only one.
        self.live.nat.memory().place(key).map(|at| unsafe { NatSlot::new(at) })
    }

    fn draft(&self) -> Option<NatSlot<'_>> {
        Some(self.draft)
    }

    fn insert_nat(&self, key: &FlowKey, entry: &NatEntry) -> Result<(), NotInserted> {
        if self.live.nat.memory().get(key).is_some() {
            return Err(NotInserted::Exists);
        }
        self.live.nat.memory().set(key, *entry).then_some(()).ok_or(NotInserted::Full)
    }

    fn remove_nat(&self, key: &FlowKey) {
        self.live.nat.memory().remove(key);
    }

    fn vip_prefix(&self, _: u32, _: &Address) -> Option<u32> {
        None
    }

    fn listed(&self, _: u32, _: u32, _: &Address) -> bool {
        false
    }

    fn rate(&self, _: &RateKey) -> Option<Bucket> {
        None
    }

    fn put_rate(&self, _: &RateKey, _: &Bucket) {}

    fn server_id(&self, key: &ServerIdKey) -> Option<u32> {
        self.live.server_ids.memory().get(key)
    }

    fn take(&self, limit: Limit) -> bool {
        limit == Limit::Icmp || !self.limited
    }

    fn now_ms(&self) -> u32 {
        self.now_ms as u32
    }

    fn now(&self) -> u32 {
        (self.now_ms / 1000) as u32
    }

    fn doubt(&self, _: u32) {}

    fn count_sent(&self, _: u32, _: u64) {}

    fn count_new(&self, _: u32) {}

    fn count(&self, event: Event) {
        self.counted.events.borrow_mut()[event as usize] += 1;
    }
}
