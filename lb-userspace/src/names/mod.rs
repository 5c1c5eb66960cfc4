//! Host names of backends: what the DNS said of each, and which address follows from it.
//!
//! ```text
//!               answer                    answer: the same address among others, or another
//!    ┌────────┐ ─────► ┌───────────┐ ◄──────────────────────────────────────────────┐
//!    │ none   │        │ address   │ ── failure, NXDOMAIN, nothing ──► ┌─────────┐ ─┘
//!    └────────┘ ◄─┐    └───────────┘                                   │ kept    │ ◄─┐
//!        └────────┘                                                    └─────────┘ ──┘
//!         failure                                                        failure
//! ```
//!
//! An address that was found is never lost again: whatever fails, the last one is kept. Of several
//! addresses the present one stays, else the lowest is taken, if the configuration holds with it: no
//! name can make two backends one, or one of them a VIP. Nor is an address left whose backend serves
//! and cannot be spared: then the new one waits.
//!
//! Pure: answers and time are arguments. [`Follower`] is the edge, which asks.

mod follower;
mod known;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::model::Lookup;
use crate::config::{Config, validate};
use crate::control::health::{Failure, FailureKind};
use crate::store::Placed;

pub use follower::Follower;
use known::Known;
pub use known::Trouble;

/// A name's addresses, or why there are none: a clause whose subject is the name.
pub type Answer = Result<Vec<IpAddr>, String>;

/// All names that are followed.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<Lookup, Known>);

/// What became of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It has another address, or its first one.
    Moved { lookup: Lookup, from: Option<IpAddr>, to: IpAddr },
    /// From now on no answer gives its address.
    Failed(Lookup),
    /// An answer gives it again.
    Well(Lookup),
}

impl Names {
    /// No names.
    #[must_use]
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// The names of a configuration, with the addresses that they last had as far as it holds with
    /// them.
    #[must_use]
    pub fn inherit(config: &Config, placed: Vec<Placed>, now: Instant) -> Self {
        let mut names = Self::none();
        names.keep(&lookups(config));
        for Placed { lookup, address } in placed {
            if let Some(known) = names.0.get_mut(&lookup) {
                known.offered = Some(address);
            }
        }
        names.settle(config, Vec::new(), now);
        names
    }

    /// Follows these besides those that it does.
    pub fn add(&mut self, wanted: impl IntoIterator<Item = Lookup>) {
        for lookup in wanted {
            self.0.entry(lookup).or_default();
        }
    }

    /// Follows only these.
    pub fn keep(&mut self, wanted: &BTreeSet<Lookup>) {
        self.0.retain(|lookup, _| wanted.contains(lookup));
        // The configuration may hold with what it did not before.
        self.0.values_mut().for_each(|known| known.is_refused = false);
        self.add(wanted.iter().cloned());
    }

    /// What is followed.
    pub fn followed(&self) -> impl Iterator<Item = &Lookup> {
        self.0.keys()
    }

    /// Whether a question for a name was answered, or has failed, since it is followed.
    #[must_use]
    pub fn is_heard(&self, lookup: &Lookup) -> bool {
        self.0.get(lookup).is_some_and(|known| known.is_heard)
    }

    /// Takes answers. Addresses that the configuration does not hold with are refused, and tried
    /// again with whatever else changes: what is in the way may go.
    pub fn settle(
        &mut self,
        config: &Config,
        answers: Vec<(Lookup, Answer)>,
        now: Instant,
    ) -> Vec<News> {
        self.settle_where(config, answers, |_| Ok(()), now)
    }

    /// The same where the address that a name has may not always be left: `may_leave` says why not.
    /// Then it is asked again with the next answer, of whatever name.
    pub fn settle_where(
        &mut self,
        config: &Config,
        answers: Vec<(Lookup, Answer)>,
        may_leave: impl FnMut(&Lookup) -> Result<(), String>,
        now: Instant,
    ) -> Vec<News> {
        let answered = answers.iter().map(|(lookup, _)| lookup);
        let offered = self.0.iter().filter(|(_, known)| known.offered.is_some());
        let touched: BTreeSet<&Lookup> =
            answered.chain(offered.map(|(lookup, _)| lookup)).collect();
        let before = |lookup: &&Lookup| Some(((*lookup).clone(), self.0.get(*lookup)?.clone()));
        let before: Vec<(Lookup, Known)> = touched.iter().filter_map(before).collect();
        for (lookup, answer) in answers {
            if let Some(known) = self.0.get_mut(&lookup) {
                known.take(lookup.family, answer, now);
            }
        }
        if self.0.values().any(|known| known.offered.is_some() && !known.is_refused) {
            let ready = self.ready(may_leave, now);
            self.settle_offers(&ready, config, now);
        }
        before.into_iter().filter_map(|(lookup, was)| self.news(lookup, &was)).collect()
    }

    fn news(&self, lookup: Lookup, was: &Known) -> Option<News> {
        let known = self.0.get(&lookup)?;
        match (known.address, was.trouble.is_some(), known.trouble.is_some()) {
            (Some(to), _, _) if was.address != known.address => {
                Some(News::Moved { lookup, from: was.address, to })
            }
            (_, false, true) => Some(News::Failed(lookup)),
            (_, true, false) => Some(News::Well(lookup)),
            _ => None,
        }
    }

    /// The names whose offers may be taken.
    fn ready(
        &mut self,
        mut may_leave: impl FnMut(&Lookup) -> Result<(), String>,
        now: Instant,
    ) -> BTreeSet<Lookup> {
        let mut ready = BTreeSet::new();
        for (lookup, known) in &mut self.0 {
            let Some(offered) = known.offered else { continue };
            let may = if known.address.is_some() { may_leave(lookup) } else { Ok(()) };
            match may {
                Ok(()) => _ = ready.insert(lookup.clone()),
                Err(why) => known.fail(format!("resolves to {offered}, which waits: {why}"), now),
            }
        }
        ready
    }

    /// All offers at once, as two names may have changed places; else each by itself, as long as one
    /// makes way for another.
    fn settle_offers(&mut self, ready: &BTreeSet<Lookup>, config: &Config, now: Instant) {
        loop {
            let offer = |(l, k): (&Lookup, &Known)| k.offered.map(|address| (l.clone(), address));
            let is_ready = |(lookup, _): &(&Lookup, &Known)| ready.contains(*lookup);
            let offers: Vec<(Lookup, IpAddr)> =
                self.0.iter().filter(is_ready).filter_map(offer).collect();
            if offers.is_empty() {
                return;
            }
            if let Ok(names) = self.with(&offers, config) {
                *self = names;
                return;
            }
            let mut any = false;
            for offer in offers {
                match self.with(std::slice::from_ref(&offer), config) {
                    Ok(names) => (*self, any) = (names, true),
                    Err(why) => self.refuse(&offer.0, offer.1, &why, now),
                }
            }
            if !any {
                return;
            }
        }
    }

    /// The names with these addresses, or what the configuration has against them.
    fn with(&self, offers: &[(Lookup, IpAddr)], config: &Config) -> Result<Self, String> {
        let mut names = self.clone();
        for (lookup, address) in offers {
            if let Some(known) = names.0.get_mut(lookup) {
                known.accept(*address);
            }
        }
        validate(&names.resolve(config)).map_err(|error| error.message)?;
        Ok(names)
    }

    /// An address cannot be in force after all, for this reason: the one before, if any, is again.
    pub fn take_back(
        &mut self,
        lookup: &Lookup,
        (from, to): (Option<IpAddr>, IpAddr),
        why: &str,
        now: Instant,
    ) {
        if let Some(known) = self.0.get_mut(lookup) {
            known.address = from;
        }
        self.refuse(lookup, to, why, now);
    }

    fn refuse(&mut self, lookup: &Lookup, address: IpAddr, why: &str, now: Instant) {
        if let Some(known) = self.0.get_mut(lookup) {
            (known.offered, known.is_refused) = (Some(address), true);
            known.fail(format!("resolves to {address}, which is refused: {why}"), now);
        }
    }

    /// The address that a name has or had.
    #[must_use]
    pub fn address(&self, lookup: &Lookup) -> Option<IpAddr> {
        self.0.get(lookup)?.address
    }

    /// Whether some name has no address.
    #[must_use]
    pub fn is_any_nowhere(&self) -> bool {
        self.0.values().any(|known| known.address.is_none())
    }

    /// Why a name has no address, or keeps one that no answer gives; `None` if all is well.
    #[must_use]
    pub fn trouble(&self, lookup: &Lookup) -> Option<&Trouble> {
        self.0.get(lookup)?.trouble.as_ref()
    }

    /// Why a backend of this name is nowhere, as a failing probe would be told.
    #[must_use]
    pub fn why_nowhere(&self, lookup: &Lookup) -> Failure {
        let why = self.trouble(lookup).map_or("is being looked up", |trouble| trouble.why.as_str());
        Failure::new(FailureKind::Name, format!("{} {why}", lookup.host))
    }

    /// The configuration with every backend where its name says; one without an address at the
    /// unspecified one of its family.
    #[must_use]
    pub fn resolve(&self, config: &Config) -> Config {
        let mut resolved = config.clone();
        for service in &mut resolved.services {
            if service.backends.iter().all(|backend| backend.host.is_none()) {
                continue;
            }
            let addresses: Vec<_> = service
                .backends
                .iter()
                .map(|backend| service.lookup(backend))
                .map(|lookup| {
                    lookup.map(|l| self.address(&l).unwrap_or_else(|| l.family.unspecified()))
                })
                .collect();
            for (backend, address) in Arc::make_mut(service).backends.iter_mut().zip(addresses) {
                if let Some(address) = address {
                    Arc::make_mut(backend).address = address;
                }
            }
        }
        resolved
    }

    /// What is to be known after a restart.
    #[must_use]
    pub fn placed(&self) -> Vec<Placed> {
        let placed = |(lookup, known): (&Lookup, &Known)| {
            known.address.map(|address| Placed { lookup: lookup.clone(), address })
        };
        self.0.iter().filter_map(placed).collect()
    }
}

/// All that a configuration has the DNS asked.
#[must_use]
pub fn lookups(config: &Config) -> BTreeSet<Lookup> {
    let services = config.services.iter();
    services.flat_map(|s| s.backends.iter().filter_map(|b| s.lookup(b))).collect()
}

/// How long an answer is good: its time to live, within bounds. What failed is asked again after
/// the shorter of them.
#[must_use]
pub fn ask_again_in(time_to_live: Option<Duration>) -> Duration {
    time_to_live.map_or(SHORTEST, |ttl| ttl.clamp(SHORTEST, LONGEST))
}

/// Between two questions for a name.
pub const SHORTEST: Duration = Duration::from_secs(5);
pub const LONGEST: Duration = Duration::from_secs(60);
