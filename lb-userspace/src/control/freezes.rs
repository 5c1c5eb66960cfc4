//! Where health is kept from acting: the operator's list, with reasons and ends; pure.

use serde::{Deserialize, Serialize};

use super::clock::move_along;
use crate::report::Freeze;

/// The freezes, by service; that of the whole node has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Freezes(Vec<Freeze>);

impl Freezes {
    #[must_use]
    pub fn entries(&self) -> &[Freeze] {
        &self.0
    }

    /// Freezes a service, or all; again, to give it another reason or end.
    pub fn add(&mut self, new: Freeze) {
        match self.0.iter_mut().find(|freeze| freeze.service == new.service) {
            Some(known) => {
                let reason = new.reason.clone().or_else(|| known.reason.clone());
                *known = Freeze { reason, since_ms: known.since_ms, ..new };
            }
            None => self.0.push(new),
        }
    }

    /// Thaws a service; or the whole node, and every service with it. What was thawed.
    pub fn remove(&mut self, service: Option<&str>) -> Vec<Freeze> {
        let is_it = |freeze: &mut Freeze| service.is_none() || freeze.service.as_deref() == service;
        self.0.extract_if(.., is_it).collect()
    }

    /// The freeze that is on a service: its own, or that of all.
    #[must_use]
    pub fn of(&self, service: &str) -> Option<&Freeze> {
        let own = self.0.iter().find(|freeze| freeze.service.as_deref() == Some(service));
        own.or_else(|| self.0.iter().find(|freeze| freeze.service.is_none()))
    }

    /// Ends those whose time is over; they are returned.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Freeze> {
        self.0.extract_if(.., |freeze| freeze.until_ms <= now_ms).collect()
    }

    /// The clock of the day was set.
    pub fn move_along(&mut self, by_ms: i64) {
        for freeze in &mut self.0 {
            move_along(&mut freeze.since_ms, by_ms);
            move_along(&mut freeze.until_ms, by_ms);
        }
    }

    /// When the next one ends by itself.
    #[must_use]
    pub fn next_end(&self) -> Option<u64> {
        self.0.iter().map(|freeze| freeze.until_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freeze(service: Option<&str>, until_ms: u64) -> Freeze {
        let service = service.map(String::from);
        Freeze { service, reason: None, actor: "uid 0".into(), since_ms: 0, until_ms }
    }

    #[test]
    fn the_services_own_comes_before_that_of_all() {
        let mut freezes = Freezes::default();
        assert_eq!((freezes.of("web"), freezes.next_end()), (None, None));
        freezes.add(freeze(None, 50));
        freezes.add(freeze(Some("web"), 20));
        assert_eq!(freezes.of("web").map(|freeze| freeze.until_ms), Some(20));
        assert_eq!(freezes.of("api").map(|freeze| freeze.until_ms), Some(50));
        assert_eq!(freezes.next_end(), Some(20));
        assert_eq!(freezes.expire(19), []);
        assert_eq!(freezes.expire(20), [freeze(Some("web"), 20)]);
        assert_eq!(freezes.of("web").map(|freeze| freeze.until_ms), Some(50), "all are, still");
    }

    #[test]
    fn freezing_again_changes_the_end_and_keeps_the_reason() {
        let mut freezes = Freezes::default();
        let reason = Some("migration".to_owned());
        freezes.add(Freeze { reason: reason.clone(), ..freeze(Some("web"), 20) });
        freezes.add(Freeze { since_ms: 9, ..freeze(Some("web"), 30) });
        let [only] = freezes.entries() else { panic!("{freezes:?}") };
        assert_eq!((&only.reason, only.since_ms, only.until_ms), (&reason, 0, 30));
    }

    #[test]
    fn thawing_all_thaws_each() {
        let mut freezes = Freezes::default();
        freezes.add(freeze(None, 50));
        freezes.add(freeze(Some("web"), 20));
        assert_eq!(freezes.remove(Some("api")), []);
        assert_eq!(freezes.remove(None).len(), 2);
        assert_eq!(freezes.entries(), []);
    }
}
