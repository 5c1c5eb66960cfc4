//! The rules of flow affinity that the daemon keeps, each with what breaks without it.
//!
//! All are kept, always. The simulator switches one off at a time and must then find connections
//! misdirected; those of the packet path are in [`lb_common::rules`].

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "named where they are kept"))]
pub(super) enum Rule {
    /// A changed slot, or backend, stays in transition for `idle_timeout`, whatever is recorded.
    TransitionLasts,
    /// A slot that changed and changed back is still in transition: what came between is recorded.
    ChangedBackStays,
    /// The age of a shadow is its own slot's.
    AgePerSlot,
    /// Slots are marked before the word settles or the shadow ends.
    MarkFirst,
    /// An expired entry is gone before its slot's mark is.
    DeleteFirst,
    /// What a sweep found is void if anything changed meanwhile.
    EpochCounts,
    /// No time, however long, ends the marks of entries that live.
    NoDeadline,
    /// The slot of an entry is computed from its key and the table there is.
    SlotFromKey,
    /// Before a sweep, every packet that decided by older words has recorded what it will.
    GraceFirst,
    /// A backend that died gets another generation: what was recorded to it stays void.
    DeadIsVoid,
    /// All that changes of a backend's admission is one store.
    OneStore,
    /// A table and its shadow become visible together.
    ShadowWithTable,
    /// The row of a backend that left rests until nothing is recorded to it.
    RowRests,
    /// So it does while datagrams come that name it: these are not recorded.
    NamedRests,
    /// That marks are to be read is known before there are any: before a backend is unsettled.
    WatchFirst,
}

/// Whether a rule is kept.
#[cfg(not(test))]
#[inline]
pub(super) const fn keep(_: Rule) -> bool {
    true
}

#[cfg(test)]
pub(super) use switch::{ALL, break_rule, keep};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::Rule;

    pub(crate) const ALL: [Rule; 15] = [
        Rule::TransitionLasts,
        Rule::ChangedBackStays,
        Rule::AgePerSlot,
        Rule::MarkFirst,
        Rule::DeleteFirst,
        Rule::EpochCounts,
        Rule::NoDeadline,
        Rule::SlotFromKey,
        Rule::GraceFirst,
        Rule::DeadIsVoid,
        Rule::OneStore,
        Rule::ShadowWithTable,
        Rule::RowRests,
        Rule::NamedRests,
        Rule::WatchFirst,
    ];

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    pub(crate) fn keep(rule: Rule) -> bool {
        BROKEN.get() != Some(rule)
    }

    /// Breaks a rule in this thread, or none.
    pub(crate) fn break_rule(rule: Option<Rule>) {
        BROKEN.set(rule);
    }
}
