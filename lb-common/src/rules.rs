//! The rules of flow affinity that the packet path keeps, each with what breaks without it.
//!
//! The program keeps all of them. The simulator of the daemon's tests switches one off at a time
//! and must then find connections misdirected: a rule that nobody would miss is not a rule.

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Rule {
    /// While a change is fresh a flow is recorded even where it goes the same way before and
    /// after: the next change overlaps, and only the entry remembers.
    RecordAgreeing,
    /// A flow that could not be recorded goes where a later packet of it would go, too.
    RefusedTakesOld,
    /// FIN and RST do not end an entry: the other direction's packets still come, and nobody
    /// checked a reset's sequence number.
    ClosingStays,
    /// A decision that did not follow an existing entry overwrites or deletes it before the
    /// packet leaves.
    Overwrite,
    /// A SYN never follows an entry to a backend that left the configuration.
    SynLeavesRetired,
    /// A SYN that reuses the ports of a finished connection does not follow it to a backend that
    /// takes nothing new.
    SynLeavesClosing,
    /// The old answer takes a slot's previous owner on every step of the walk, not at home only.
    ShadowEveryStep,
    /// A slot in transition is looked up and recorded even if its backend takes everything.
    ShadowTouches,
    /// For a while after a change a datagram of a flow without an entry counts as an existing
    /// flow's: no datagram says that it is the first.
    DatagramsExist,
    /// Marks are read again after the walk: they were written before what it found.
    MarksAfterWalk,
}

/// Which rules are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules(u32);

impl Rules {
    /// All of them.
    pub const ALL: Self = Self(u32::MAX);

    /// All but one.
    #[must_use]
    pub const fn without(rule: Rule) -> Self {
        Self(!(1 << rule as u32))
    }

    /// Whether a rule is kept.
    #[inline(always)]
    #[must_use]
    pub const fn keep(self, rule: Rule) -> bool {
        self.0 & 1 << rule as u32 != 0
    }
}
