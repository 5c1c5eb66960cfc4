//! Which backends QUIC server ids lead to.
//!
//! Level-triggered: told what is wanted, it writes the difference.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lb_common::abi::ServerIdKey;

use super::service::Running;
use crate::dataplane::maps::LiveMaps;

/// All server ids of the node, as they are in their map.
#[derive(Debug)]
pub struct ServerIds {
    maps: Arc<LiveMaps>,
    rows: HashMap<ServerIdKey, u32>,
}

impl ServerIds {
    #[must_use]
    pub fn new(maps: Arc<LiveMaps>) -> Self {
        Self { maps, rows: HashMap::new() }
    }

    /// Refuses more than there is room for, beside those of backends that leave.
    pub fn check_room(&self, wanted: usize) -> Result<()> {
        let room = self.maps.server_ids.room() as usize;
        ensure!(wanted <= room, "{wanted} QUIC server ids, but room for {room}: {NO_ROOM}");
        Ok(())
    }

    /// Makes them those of these services.
    pub fn sync(&mut self, services: &[Running]) -> Result<()> {
        let wanted: HashMap<ServerIdKey, u32> =
            services.iter().flat_map(Running::server_ids).collect();
        for (key, row) in &wanted {
            if self.rows.get(key) != Some(row) {
                self.maps.server_ids.set(key, *row).context(NO_ROOM)?;
            }
        }
        for key in self.rows.keys().filter(|key| !wanted.contains_key(key)) {
            self.maps.server_ids.remove(key)?;
        }
        self.rows = wanted;
        Ok(())
    }
}

const NO_ROOM: &str = "raise `limits.server_ids` and restart";
