//! What services look up beside their table: allow lists, and the backends that QUIC server ids
//! name.
//!
//! Level-triggered: told what is wanted, it writes the difference. Additions come before a
//! service's flags say that there is a list, removals after, so that nobody is refused on the way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lb_common::abi::{AddressKey, ServerIdKey};

use super::service::Running;
use crate::config::model::Prefix;
use crate::dataplane::keys::prefix_key;
use crate::dataplane::maps::LiveMaps;

/// All lists of the node, as they are in the maps.
#[derive(Debug)]
pub struct Lists {
    maps: Arc<LiveMaps>,
    sources: HashSet<AddressKey>,
    server_ids: HashMap<ServerIdKey, u32>,
}

impl Lists {
    #[must_use]
    pub fn new(maps: Arc<LiveMaps>) -> Self {
        Self { maps, sources: HashSet::new(), server_ids: HashMap::new() }
    }

    /// Refuses more QUIC server ids than there is room for.
    pub fn check_room(&self, server_ids: usize) -> Result<()> {
        let room = self.maps.server_ids.room() as usize;
        ensure!(
            server_ids <= room,
            "{server_ids} QUIC server ids, but room for {room}: raise `limits.server_ids` and \
             restart"
        );
        Ok(())
    }

    /// Lets these sources come to a service of this number, beside those that may already.
    pub fn allow(&mut self, number: u32, sources: &[Prefix]) -> Result<()> {
        for key in sources.iter().map(|prefix| prefix_key(number, *prefix)) {
            if !self.sources.contains(&key) {
                self.maps.sources.set(&key, 1).context(NO_SOURCES)?;
                self.sources.insert(key);
            }
        }
        Ok(())
    }

    /// Makes the lists those of these services.
    pub fn sync<'r>(&mut self, services: impl Iterator<Item = &'r Running> + Clone) -> Result<()> {
        let mut wanted = HashSet::new();
        for running in services.clone() {
            let number = running.tables.number;
            self.allow(number, &running.config.allow)?;
            wanted.extend(running.config.allow.iter().map(|prefix| prefix_key(number, *prefix)));
        }
        for key in self.sources.iter().filter(|key| !wanted.contains(key)) {
            self.maps.sources.remove(key)?;
        }
        self.sources = wanted;
        let ids: HashMap<ServerIdKey, u32> = services.flat_map(Running::server_ids).collect();
        for (key, row) in &ids {
            if self.server_ids.get(key) != Some(row) {
                self.maps.server_ids.set(key, *row).context("raise `limits.server_ids`")?;
            }
        }
        for key in self.server_ids.keys().filter(|key| !ids.contains_key(key)) {
            self.maps.server_ids.remove(key)?;
        }
        self.server_ids = ids;
        Ok(())
    }
}

const NO_SOURCES: &str = "no room on the lists of sources: raise `limits.sources` and restart";
