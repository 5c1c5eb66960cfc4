//! The invariant of flow affinity, checked on the maps as they are.
//!
//! *Coverage*: for every live entry whose target is not the stateless answer of its slot in the
//! current table, packets of the slot look their flow up: it is marked, or its walk is touched.
//! Where that does not hold, a packet would miss its entry and go elsewhere.

use lb_common::abi::{FlowEntry, SERVICE_TRACK, Word};
use lb_common::find_service::Service;
use lb_common::hash::fast_range;
use lb_common::maps::Maps;
use lb_common::pick::answer_without_entry;

/// Whether packets of a recorded flow find their entry, or need none.
pub(super) fn holds<M: Maps>(maps: &M, service: &Service, hash: u64, entry: &FlowEntry) -> bool {
    let Some(word) = maps.word(entry.row) else { return true };
    // What is void is followed by nobody.
    if !word.serving() || word.generation() != entry.generation || service.is(SERVICE_TRACK) {
        return true;
    }
    let Some(answer) = answer_without_entry(maps, service, hash) else { return true };
    // A backend of a service that grew has rows in two places.
    let goes_there = maps.word(answer.row).is_some_and(|found| found.server() == word.server());
    goes_there || looks_up(maps, service, hash, answer.touched)
}

/// Whether a packet of this hash asks the flow table.
fn looks_up<M: Maps>(maps: &M, service: &Service, hash: u64, touched: bool) -> bool {
    let table = service.table;
    let slot = fast_range(hash, table.slots());
    let (element, bit) = table.mark_at(slot);
    let marked = table.marked() && maps.marks(element).is_some_and(|marks| marks >> bit & 1 != 0);
    marked || (touched && !home(maps, service, slot).is_some_and(Word::full))
}

fn home<M: Maps>(maps: &M, service: &Service, slot: u32) -> Option<Word> {
    let (element, shift) = service.table.slot_at(slot);
    let index = (maps.slots(element)? >> shift) as u32 & service.table.slot_mask();
    maps.word(service.table.first_row() + index)
}

/// The live flows of whom it does not hold; those idle for longer than `idle` says (by service
/// number, in seconds) are not live.
#[cfg(test)]
pub(super) fn violations(
    maps: &crate::dataplane::maps::LiveMaps,
    idle: impl Fn(u32) -> u32,
) -> Vec<lb_common::abi::FlowKey> {
    use crate::dataplane::view::{View, monotonic_seconds};

    let view = View::new(maps);
    let now = monotonic_seconds();
    let mut found = Vec::new();
    maps.flows.memory().for_each(|key, entry| {
        let Some(service) = super::sweep::service_of(&view, key) else { return };
        let hash = super::sweep::hash(maps, &service, key);
        let is_live = now.saturating_sub(entry.last_seen) <= idle(service.number);
        if is_live && !holds(&view, &service, hash, entry) {
            found.push(*key);
        }
    });
    found
}
