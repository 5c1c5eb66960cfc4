//! Which backend a packet goes to: stateless until something changes.
//!
//! The home slot's backend takes its flows while its admission word is full and the slot is not
//! marked; that costs one table element and one word. Otherwise the packet walks on through the
//! table by re-hashing, to find the backend for *new* flows (by `admit`) and for flows *without
//! an entry* (by `admit_old`). Where these may differ, or once differed, the flow table decides,
//! and remembers.
//!
//! The invariant all of this serves, *coverage*: for every live entry whose target is not the
//! stateless answer of its slot, the slot is marked or a visited backend is unsettled. Settling
//! and clearing marks is the daemon's work (its `admission` module).

use crate::abi::{
    BACKEND_BLOCK, FlowEntry, SPARES, STATE_CLOSING, TOUCH_SECONDS, Table, WALK_STEPS, Word,
};
use crate::find_service::Service;
use crate::hash::{fast_range, share_bits, step};
use crate::ip::Flow;
use crate::maps::Maps;
use crate::verdict::{Event, Verdict};

/// A backend row and its word when it was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Backend row.
    pub row: u32,
    /// Its admission word.
    pub word: Word,
}

/// Picks the backend of a packet of a `dsr` service.
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
    let marked = table.marked() && is_marked(maps, table, slot);
    if home.word.full() && !marked {
        return Ok(home);
    }
    by_change(maps, service, flow, hash, marked)
}

/// Picks the backend of a new flow, by words and table alone.
#[inline(always)]
pub fn pick_new<M: Maps>(maps: &M, service: &Service, hash: u64) -> Result<Picked, Verdict> {
    let table = service.table;
    let home = home(maps, table, fast_range(hash, table.slots())).ok_or(Verdict::DropInternal)?;
    if home.word.full() {
        return Ok(home);
    }
    let walk = walk(maps, table.0, service.number, hash);
    let row = walk.new().ok_or(Verdict::DropNoBackend)?;
    count_walk(maps, walk);
    let word = maps.word(row).ok_or(Verdict::DropInternal)?;
    Ok(Picked { row, word })
}

#[inline(always)]
fn home<M: Maps>(maps: &M, table: Table, slot: u32) -> Option<Picked> {
    let row = row_of(maps, table, slot)?;
    Some(Picked { row, word: maps.word(row)? })
}

#[inline(always)]
fn row_of<M: Maps>(maps: &M, table: Table, slot: u32) -> Option<u32> {
    let (element, shift) = table.slot_at(slot);
    Some(table.first_row() + ((maps.slots(element)? >> shift) as u32 & table.slot_mask()))
}

#[inline(always)]
fn is_marked<M: Maps>(maps: &M, table: Table, slot: u32) -> bool {
    let (element, bit) = table.mark_at(slot);
    maps.marks(element).is_some_and(|marks| marks >> bit & 1 != 0)
}

#[inline(always)]
fn count_walk<M: Maps>(maps: &M, walk: Walk) {
    maps.count(Event::Rehash);
    if walk.exhausted() {
        maps.count(Event::WalkExhausted);
    }
}

/// The answer where a change is fresh, or a slot marked. A function of its own in the program,
/// so that the fast path keeps its registers.
#[inline(never)]
fn by_change<M: Maps>(
    maps: &M,
    service: &Service,
    flow: &Flow,
    hash: u64,
    marked: bool,
) -> Result<Picked, Verdict> {
    let walk = walk(maps, service.table.0, service.number, hash);
    count_walk(maps, walk);
    let (new, old) = (walk.new(), walk.old());
    // A datagram is a flow of its own: it neither asks the flow table nor enters it.
    let stateless = !flow.is_tcp() || !(walk.touched() || marked);
    let answer = if flow.opens() { new } else { old };
    let row = if stateless { answer } else { remembered(maps, flow, walk, answer) };
    let row = row.ok_or(Verdict::DropNoBackend)?;
    let word = maps.word(row).ok_or(Verdict::DropInternal)?;
    Ok(Picked { row, word })
}

/// What the flow table says; on a miss the walk's answer, recorded where a change is under way.
#[inline(always)]
fn remembered<M: Maps>(maps: &M, flow: &Flow, walk: Walk, answer: Option<u32>) -> Option<u32> {
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
    // A reset's sequence number was checked by nobody: it leaves no state behind.
    let record = (walk.touched() || found.is_some()) && !flow.resets();
    if !record {
        if found.is_some() {
            maps.remove_flow(key);
        }
        return Some(row);
    }
    let generation = maps.word(row)?.generation();
    let entry = FlowEntry { row, generation, last_seen: now, state: closing(flow) };
    if maps.put_flow(key, &entry) {
        maps.count(Event::FlowInsert);
        return Some(row);
    }
    maps.count(Event::FlowInsertFailed);
    walk.old()
}

/// Whether a recorded flow is still good.
#[inline(always)]
fn follows<M: Maps>(maps: &M, flow: &Flow, entry: &FlowEntry) -> bool {
    let Some(word) = maps.word(entry.row) else { return false };
    if !word.serving() || word.generation() != entry.generation {
        return false;
    }
    // A retransmitted SYN stays; one that reuses the ports of a finished connection is new.
    !flow.opens() || (!word.retired() && (word.admit() > 0 || entry.state & STATE_CLOSING == 0))
}

#[inline(always)]
fn touch<M: Maps>(maps: &M, flow: &Flow, entry: FlowEntry, now: u32) {
    // A reset follows its entry but does not keep it alive.
    let due = now.wrapping_sub(entry.last_seen) >= TOUCH_SECONDS && !flow.resets();
    let state = if flow.opens() { 0 } else { entry.state | closing(flow) };
    if due || state != entry.state {
        let last_seen = if flow.resets() { entry.last_seen } else { now };
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
pub struct Walk(u64);

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

    /// Whether some visited backend is unsettled.
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
/// A function of its own in the program: the fast path keeps its registers, and the verifier
/// follows the loop once for each caller.
#[inline(never)]
pub fn walk<M: Maps>(maps: &M, table: u64, service: u32, hash: u64) -> Walk {
    let table = Table(table);
    let (mut new, mut old, mut first_serving) = (First(0), First(0), First(0));
    let mut unsettled = 0;
    for i in 0..WALK_STEPS {
        let h = step(hash, i);
        let Some(row) = row_of(maps, table, fast_range(h, table.slots())) else { break };
        let Some(word) = maps.word(row) else { break };
        let bits = share_bits(h);
        let active = word.active();
        first_serving.offer(row, active);
        new.offer(row, active & takes(word.admit(), bits));
        old.offer(row, active & takes(word.admit_old(), bits));
        unsettled |= u64::from(word.admit() ^ word.admit_old());
        if new.0 & old.0 & First::FOUND != 0 {
            let touched = if unsettled == 0 { 0 } else { Walk::TOUCHED };
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
    /// Whether a visited backend is unsettled, so that the flow table is asked, marks or not.
    pub touched: bool,
}

/// What the daemon's housekeeping compares recorded flows with.
#[must_use]
pub fn answer_without_entry<M: Maps>(maps: &M, service: &Service, hash: u64) -> Option<Answer> {
    let home = home(maps, service.table, fast_range(hash, service.table.slots()))?;
    if home.word.full() {
        return Some(Answer { row: home.row, touched: false });
    }
    let walk = walk(maps, service.table.0, service.number, hash);
    walk.old().map(|row| Answer { row, touched: walk.touched() })
}

#[cfg(test)]
mod tests;
