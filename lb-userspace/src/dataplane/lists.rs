//! Lists of sources in one longest-match map: the block list, and each service's allow list.
//!
//! A list changes entry by entry, what is new first: a source that is on the list before and
//! after is never off it in between. One that is wider or narrower than others stands beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::keys::prefix_key;
use super::maps::LiveMaps;
use crate::config::model::Prefix;

/// The daemon's side of the lists.
#[derive(Debug)]
pub struct Lists {
    maps: Arc<LiveMaps>,
    lists: BTreeMap<u32, BTreeSet<Prefix>>,
}

impl Lists {
    #[must_use]
    pub fn new(maps: Arc<LiveMaps>) -> Self {
        Self { maps, lists: BTreeMap::new() }
    }

    /// Makes a list hold just these.
    pub fn set(&mut self, list: u32, wanted: &BTreeSet<Prefix>) -> Result<()> {
        self.add(list, wanted)?;
        let Some(known) = self.lists.get_mut(&list) else { return Ok(()) };
        for prefix in known.difference(wanted).copied().collect::<Vec<_>>() {
            self.maps.sources.remove(&prefix_key(list, prefix)).context(WHAT)?;
            known.remove(&prefix);
        }
        if known.is_empty() {
            self.lists.remove(&list);
        }
        Ok(())
    }

    /// Puts these on a list, beside what is there.
    pub fn add(&mut self, list: u32, wanted: &BTreeSet<Prefix>) -> Result<()> {
        let known = self.lists.entry(list).or_default();
        for prefix in wanted {
            if !known.contains(prefix) {
                self.maps.sources.set(&prefix_key(list, *prefix), 1).context(WHAT)?;
                known.insert(*prefix);
            }
        }
        Ok(())
    }

    /// Of these, how many are not on a list; `None` is a list that is not there yet.
    #[must_use]
    pub fn missing(&self, list: Option<u32>, wanted: &BTreeSet<Prefix>) -> usize {
        match list.and_then(|list| self.lists.get(&list)) {
            Some(known) => wanted.difference(known).count(),
            None => wanted.len(),
        }
    }

    /// Refuses entries there would be no room for, beside all that are there.
    pub fn check_room(&self, more: usize) -> Result<()> {
        let known: usize = self.lists.values().map(BTreeSet::len).sum();
        let room = self.maps.sources.room();
        ensure!(
            more == 0 || known + more <= room as usize,
            "{more} more entries of `allow` and the block list (a change needs room for the old \
             and the new), but room for {}: raise `limits.sources` and restart",
            (room as usize).saturating_sub(known)
        );
        Ok(())
    }
}

const WHAT: &str = "lists of sources";
