//! Which backend a packet goes to: stateless until something changes.
//!
//! The home slot's backend takes its flows while its admission word is full and nothing is to be
//! asked about the slot; that costs one table element and one word. Otherwise the packet walks on
//! through the table by re-hashing, to find the backend for *new* flows (by `admit`) and for flows
//! *without an entry* (by `admit_old`, where a slot that changed its owner counts as the previous
//! owner's: its *shadow*). Where these may differ, or once differed, the flow table decides, and
//! remembers.
//!
//! The invariant all of this serves, *coverage*: for every live entry whose target is not the
//! stateless answer of its slot, the slot is marked or its walk is touched: some visited backend
//! is unsettled, or some visited slot has a shadow. Settling, ending shadows and clearing marks
//! is the daemon's work (its `admission` and `tables` modules). [`crate::rules`] has the rules.

use crate::abi::{
    BACKEND_BLOCK, FlowEntry, KIND_NAT, Limit, SERVICE_TRACK, SERVICE_UDP_FLOW, SPARES,
    STATE_CLOSING, TOUCH_SECONDS, Table, WALK_STEPS, Word,
};
use crate::find_service::Service;
use crate::hash::{fast_range, share_bits, step};
use crate::ip::Flow;
use crate::maps::Maps;
use crate::rules::Rule;
use crate::verdict::{Event, Verdict};

/// A backend row and its word when it was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Backend row.
    pub row: u32,
    /// Its admission word.
    pub word: Word,
}

/// Picks the backend of a packet.
#[inline(always)]
pub fn pick<M: Maps>(
    maps: &M,
    service: &Service,
    flow: &Flow,
    hash: u64,
) -> Result<Picked, Verdict> {
    let table = service.table;
    let slot = fast_range(hash, table.slots());
    let home = home(maps, table, slot).ok_or(Verdict::DropInternal)?;
    let asked = service.is(SERVICE_TRACK) || (table.marked() && is_marked(maps, table, slot));
    if home.word.full() && !asked {
        return Ok(home);
    }
    // Verifier: not by a function in between, whose stack would count beside the walk's.
    let walk = Walk(maps.walk(table.0, service.number, hash));
    by_change(maps, service, flow, walk.0, slot << 1 | u32::from(asked))
}

#[inline(always)]
pub(crate) fn home<M: Maps>(maps: &M, table: Table, slot: u32) -> Option<Picked> {
    let (element, shift, mask) = table.slot_at_once(slot);
    let row = table.first_row() + ((maps.slots(element)? >> shift) as u32 & mask);
    Some(Picked { row, word: maps.word(row)? })
}

/// The backend index that a slot holds.
#[inline(always)]
fn index_of<M: Maps>(maps: &M, table: Table, slot: u32) -> Option<u32> {
    let (element, shift) = table.slot_at(slot);
    Some((maps.slots(element)? >> shift) as u32 & table.slot_mask())
}

#[inline(always)]
pub(crate) fn is_marked<M: Maps>(maps: &M, table: Table, slot: u32) -> bool {
    let (element, bit) = table.mark_at(slot);
    // Verifier: not `is_some_and`, which shifts what it has not read ("R1 !read_ok").
    maps.marks(element).unwrap_or_default() >> bit & 1 != 0
}

#[inline(always)]
fn count_walk<M: Maps>(maps: &M, walk: Walk) {
    maps.count(Event::Rehash);
    if walk.exhausted() {
        maps.count(Event::WalkExhausted);
    }
}

/// The answer where a change is fresh, or a slot is asked about. A function of its own in the
/// program, so that the fast path keeps its registers.
#[inline(never)]
fn by_change<M: Maps>(
    maps: &M,
    service: &Service,
    flow: &Flow,
    walk: u64,
    slot_and_asked: u32,
) -> Result<Picked, Verdict> {
    let walk = Walk(walk);
    // Marks are written before the words and shadows whose end needs them, so they are read again
    // after those: who walked by the new ones finds the mark.
    let (slot, table) = (slot_and_asked >> 1, service.table);
    let again = table.marked() && M::RULES.keep(Rule::MarksAfterWalk);
    let asked = slot_and_asked & 1 != 0 || (again && is_marked(maps, table, slot));
    count_walk(maps, walk);
    let touched = walk.touched() || service.is(SERVICE_TRACK);
    // A datagram is a flow of its own, unless the service wants it otherwise.
    let alone = !flow.is_tcp() && !service.is(SERVICE_UDP_FLOW);
    // What counts a flow's later packets, if it is not recorded, as existing.
    let may_exist = M::RULES.keep(Rule::DatagramsExist);
    let is_fresh = flow.is_tcp() || (may_exist && maps.now() < service.udp_until);
    let is_new = if flow.is_tcp() {
        flow.opens()
    } else {
        let opens = flow.tcp_flags == Flow::OPENS;
        alone || opens || (flow.opens() && !is_fresh)
    };
    let answer = if is_new { walk.new() } else { walk.old() };
    let row = if alone || !(touched || asked) {
        answer
    } else {
        let later = if is_fresh { walk.old() } else { walk.new() };
        remembered(maps, flow, walk, touched, answer, later)
    };
    let row = row.ok_or(Verdict::DropNoBackend)?;
    let word = maps.word(row).ok_or(Verdict::DropInternal)?;
    Ok(Picked { row, word })
}

/// What the flow table says; on a miss the walk's answer, recorded where a change is under way.
#[inline(always)]
fn remembered<M: Maps>(
    maps: &M,
    flow: &Flow,
    walk: Walk,
    touched: bool,
    answer: Option<u32>,
    later: Option<u32>,
) -> Option<u32> {
    let key = &flow.key;
    let now = maps.now();
    maps.count(Event::FlowLookup);
    let found = maps.flow(key);
    if let Some(entry) = found {
        if follows(maps, flow, &entry) {
            touch(maps, flow, entry, now);
            return Some(entry.row);
        }
        maps.count(Event::FlowVoid);
    }
    let row = answer?;
    let word = maps.word(row)?;
    let is_new = found.is_none();
    let agrees = walk.new() == walk.old() && !M::RULES.keep(Rule::RecordAgreeing);
    let wanted = (touched && !agrees) || (!is_new && M::RULES.keep(Rule::Overwrite));
    // A NAT connection is its own record.
    let is_nat = maps.server(word.server()).is_some_and(|server| server.kind == KIND_NAT);
    if !wanted || flow.leaves_no_trace() || is_nat {
        if !is_new && M::RULES.keep(Rule::Overwrite) {
            maps.remove_flow(key);
        }
        return Some(row);
    }
    let refused = if M::RULES.keep(Rule::RefusedTakesOld) { later } else { Some(row) };
    // Overwriting takes no room, so a flood cannot be behind it.
    if is_new && !maps.take(Limit::FlowInsert) {
        maps.count(Event::FlowInsertLimited);
        return refused;
    }
    let generation = word.generation();
    let entry = FlowEntry { row, generation, last_seen: now, state: closing(flow) };
    if maps.put_flow(key, &entry) {
        maps.count(Event::FlowInsert);
        return Some(row);
    }
    maps.count(Event::FlowInsertFailed);
    if !is_new {
        maps.remove_flow(key);
    }
    refused
}

/// Whether a recorded flow is still good.
#[inline(always)]
fn follows<M: Maps>(maps: &M, flow: &Flow, entry: &FlowEntry) -> bool {
    let Some(word) = maps.word(entry.row) else { return false };
    if !word.serving() || word.generation() != entry.generation {
        return false;
    }
    // A SYN, or what opens a connection of QUIC.
    if !(flow.opens() && flow.begins()) {
        return true;
    }
    // A retransmitted SYN stays; one that reuses the ports of a finished connection is new.
    let retired = word.retired() && M::RULES.keep(Rule::SynLeavesRetired);
    let finished = entry.state & STATE_CLOSING != 0 && M::RULES.keep(Rule::SynLeavesClosing);
    !retired && (word.admit() > 0 || !finished)
}

#[inline(always)]
fn touch<M: Maps>(maps: &M, flow: &Flow, entry: FlowEntry, now: u32) {
    if flow.closes() && !M::RULES.keep(Rule::ClosingStays) {
        maps.remove_flow(&flow.key);
        return;
    }
    let aside = flow.leaves_no_trace();
    let due = now.wrapping_sub(entry.last_seen) >= TOUCH_SECONDS && !aside;
    let state = if flow.is_syn() { 0 } else { entry.state | closing(flow) };
    if due || state != entry.state {
        let last_seen = if aside { entry.last_seen } else { now };
        maps.put_flow(&flow.key, &FlowEntry { last_seen, state, ..entry });
    }
}

#[inline(always)]
fn closing(flow: &Flow) -> u32 {
    if flow.closes() { STATE_CLOSING } else { 0 }
}

/// The two answers of a walk, in one word: they cross a function call.
///
/// Bits 0–23 the row for new flows plus one, 24–47 for old ones plus one, 48 touched,
/// 49 exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Walk(pub u64);

impl Walk {
    const ROW: u64 = (1 << 24) - 1;
    const TOUCHED: u64 = 1 << 48;
    const EXHAUSTED: u64 = 1 << 49;

    /// Backend row for a new flow.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::new_ret_no_self, reason = "new as opposed to old, not a constructor")]
    pub const fn new(self) -> Option<u32> {
        Self::row(self.0 & Self::ROW)
    }

    /// Backend row for an existing flow without an entry.
    #[inline(always)]
    #[must_use]
    pub const fn old(self) -> Option<u32> {
        Self::row(self.0 >> 24 & Self::ROW)
    }

    /// Whether some visited backend is unsettled, or some visited slot has a shadow.
    #[inline(always)]
    #[must_use]
    pub const fn touched(self) -> bool {
        self.0 & Self::TOUCHED != 0
    }

    /// Whether no visited backend takes the flow.
    #[inline(always)]
    #[must_use]
    pub const fn exhausted(self) -> bool {
        self.0 & Self::EXHAUSTED != 0
    }

    #[inline(always)]
    const fn row(plus_one: u64) -> Option<u32> {
        if plus_one == 0 { None } else { Some(plus_one as u32 - 1) }
    }
}

const _: () = assert!((Table::MAX_BLOCKS as u64 * BACKEND_BLOCK as u64) < Walk::ROW);

/// Walks through the table from the home slot on.
///
/// Called through [`Maps::walk`].
#[inline(always)]
pub fn walk<M: Maps>(maps: &M, table: u64, service: u32, hash: u64) -> Walk {
    let table = Table(table);
    let shadow = if table.shadowed() {
        Table(maps.slots(table.shadow_at()).unwrap_or(table.0))
    } else {
        table
    };
    let (mut new, mut old, mut first_serving) = (First(0), First(0), First(0));
    let mut touched = 0;
    for i in 0..WALK_STEPS {
        let Some(visit) = visit(maps, table.0, shadow.0, step(hash, i), i) else { break };
        first_serving.offer(visit.row(), visit.bit(Visit::ACTIVE));
        new.offer(visit.row(), visit.bit(Visit::TAKES_NEW));
        old.offer(visit.row_old(), visit.bit(Visit::TAKES_OLD));
        touched |= visit.bit(Visit::TOUCHED);
        if new.0 & old.0 & First::FOUND != 0 {
            let touched = if touched == 0 { 0 } else { Walk::TOUCHED };
            return Walk(new.row_plus_one() | old.row_plus_one() << 24 | touched);
        }
    }
    // The first visited that serves at all, else a spare; either is recorded, as both may change
    // without any word of the walk changing.
    let last = match first_serving.row_plus_one() {
        0 => spare(maps, table, service, hash),
        row => row,
    };
    let or_last = |first: First| if first.0 == 0 { last } else { first.row_plus_one() };
    Walk(or_last(new) | or_last(old) << 24 | Walk::TOUCHED | Walk::EXHAUSTED)
}

/// What the walk finds at one step, in one word: it crosses a function call.
///
/// Bits 0–23 the row of the slot, 24–47 that of its previous owner (the same where there is none),
/// from 48 on the flags below.
struct Visit(u64);

impl Visit {
    const ACTIVE: u32 = 48;
    const TAKES_NEW: u32 = 49;
    const TAKES_OLD: u32 = 50;
    const TOUCHED: u32 = 51;

    #[inline(always)]
    const fn row(&self) -> u32 {
        (self.0 & Walk::ROW) as u32
    }

    #[inline(always)]
    const fn row_old(&self) -> u32 {
        (self.0 >> 24 & Walk::ROW) as u32
    }

    #[inline(always)]
    const fn bit(&self, at: u32) -> u64 {
        self.0 >> at & 1
    }
}

/// Looks at the slot of a step's hash. A function of its own, without branches that depend on
/// what it finds: Verifier: "combined stack size of 4 calls is 608. Too large" else, and states
/// would multiply around the loop.
#[inline(never)]
fn visit_word<M: Maps>(maps: &M, table: u64, shadow: u64, h: u64, step: u32) -> u64 {
    let (table, shadow) = (Table(table), Table(shadow));
    let Some(index) = index_of(maps, table, fast_range(h, table.slots())) else { return NOWHERE };
    let Some(before) = index_of(maps, shadow, fast_range(h, shadow.slots())) else {
        return NOWHERE;
    };
    let at_home_only = !M::RULES.keep(Rule::ShadowEveryStep) && step > 0;
    // 1 if the slot has a previous owner: "none" is all ones.
    let shadowed = u64::from(table.shadowed())
        & (subtract(0, u64::from(before ^ shadow.slot_mask())) >> 63)
        & u64::from(!at_home_only);
    let row = table.first_row() + index;
    let row_before = shadow.first_row() + before;
    let row_old = row ^ ((row ^ row_before) & mask(shadowed) as u32);
    let Some(word) = maps.word(row) else { return NOWHERE };
    let Some(word_old) = maps.word(row_old) else { return NOWHERE };
    let bits = share_bits(h);
    let takes_new = word.active() & takes(word.admit(), bits);
    let takes_old = word_old.0 >> 62 & 1 & takes(word_old.admit_old(), bits);
    let unsettled = u64::from(word.admit() ^ word.admit_old())
        | u64::from(word_old.admit() ^ word_old.admit_old());
    let counts = if M::RULES.keep(Rule::ShadowTouches) { shadowed } else { 0 };
    let touched = (subtract(0, unsettled | counts)) >> 63;
    u64::from(row)
        | u64::from(row_old) << 24
        | word.active() << Visit::ACTIVE
        | takes_new << Visit::TAKES_NEW
        | takes_old << Visit::TAKES_OLD
        | touched << Visit::TOUCHED
}

/// No such slot, or no such row: the maps contradict each other.
const NOWHERE: u64 = u64::MAX;

#[inline(always)]
fn visit<M: Maps>(maps: &M, table: u64, shadow: u64, h: u64, step: u32) -> Option<Visit> {
    let word = visit_word(maps, table, shadow, h, step);
    if word == NOWHERE { None } else { Some(Visit(word)) }
}

/// The first row offered that was taken.
///
/// Verifier: without branches, as every branch in the walk doubles the states it carries around
/// the loop ("BPF program is too large. Processed 1000001 insn").
#[derive(Clone, Copy)]
struct First(u64);

impl First {
    const FOUND: u64 = 1 << 32;

    /// Keeps `row` if `taken` is 1 and none was kept; `taken` is 0 or 1.
    #[inline(always)]
    fn offer(&mut self, row: u32, taken: u64) {
        let keep = taken & !(self.0 >> 32);
        self.0 |= mask(keep) & (Self::FOUND | u64::from(row));
    }

    #[inline(always)]
    fn row_plus_one(self) -> u64 {
        (self.0 & 0xffff_ffff) + (self.0 >> 32)
    }
}

/// 1 if a share takes a flow with these bits, else 0; the full share takes all.
#[inline(always)]
fn takes(share: u16, bits: u16) -> u64 {
    let limit = u64::from(share) + ((u64::from(share) + 1) >> 16);
    subtract(u64::from(bits), limit) >> 63
}

/// All ones for 1, zero for 0.
#[inline(always)]
fn mask(bit: u64) -> u64 {
    subtract(0, bit)
}

/// `a - b`, wrapping. In the program by an instruction the compiler does not see through, as it
/// knows a comparison when it sees one, and would make it a branch again.
#[inline(always)]
fn subtract(a: u64, b: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut a = a;
        // SAFETY: a subtraction.
        unsafe {
            core::arch::asm!("{0} -= {1}", inout(reg) a, in(reg) b, options(pure, nomem, nostack));
        }
        a
    }
    #[cfg(not(target_arch = "bpf"))]
    a.wrapping_sub(b)
}

/// A backend of the service's list of spares, row plus one, if it serves.
#[inline(always)]
fn spare<M: Maps>(maps: &M, table: Table, service: u32, hash: u64) -> u64 {
    let place = hash as u32 & (SPARES - 1);
    let Some(element) = maps.spares(service * (SPARES / 4) + (place >> 2)) else { return 0 };
    let row = table.first_row() + (element >> ((place & 3) * 16)) as u16 as u32;
    match maps.word(row) {
        Some(word) if word.serving() && !word.retired() => u64::from(row) + 1,
        _ => 0,
    }
}

/// Where a packet of an existing flow without an entry goes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The backend row.
    pub row: u32,
    /// Whether the flow table is asked, marks or not, as a change is fresh on the way.
    pub touched: bool,
}

/// What the daemon's housekeeping compares recorded flows with.
#[must_use]
pub fn answer_without_entry<M: Maps>(maps: &M, service: &Service, hash: u64) -> Option<Answer> {
    let home = home(maps, service.table, fast_range(hash, service.table.slots()))?;
    if home.word.full() && !service.table.shadowed() {
        return Some(Answer { row: home.row, touched: false });
    }
    let walk = Walk(maps.walk(service.table.0, service.number, hash));
    walk.old().map(|row| Answer { row, touched: walk.touched() })
}

#[cfg(test)]
mod tests;
