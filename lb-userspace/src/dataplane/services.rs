//! Writes the service table: an open-addressing table whose readers never stop.
//!
//! A record appears by its key word, written last, and goes by it, written first. A place that
//! was given up is taken again only after a grace period, as a reader may still hold it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use lb_common::abi::{
    Address, KEY_EMPTY, KEY_REMOVED, SERVICE_PROBES, ServiceRecord, Table, service_key,
};
use lb_common::ip::{Ip, V4, V6};

use super::maps::LiveMaps;

/// What a record is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub address: IpAddr,
    /// Host order; zero with protocol zero for the address alone.
    pub port: u16,
    pub protocol: u8,
}

/// The daemon's side of the service table.
#[derive(Debug)]
pub struct ServiceTable {
    maps: Arc<LiveMaps>,
    places: HashMap<Key, u32>,
    /// Given up, and not yet through a grace period.
    resting: HashSet<u32>,
}

impl ServiceTable {
    #[must_use]
    pub fn new(maps: Arc<LiveMaps>) -> Self {
        Self { maps, places: HashMap::new(), resting: HashSet::new() }
    }

    /// Makes a record, or changes it in place, word by word. `template` has all but key, address
    /// and table.
    pub fn put(&mut self, key: Key, template: &ServiceRecord, table: Table) -> Result<()> {
        let (address, word) = key.words();
        let record = ServiceRecord { key: word, address, table: table.0, ..*template };
        if let Some(&index) = self.places.get(&key) {
            return self.maps.services.set(index, record);
        }
        let index = self.place_for(key, &self.resting)?;
        self.maps.services.set(index, ServiceRecord { key: KEY_REMOVED, ..record })?;
        // Packets find the record from here on, and all of it: x86 and the volatile writes keep
        // the order of stores; elsewhere the fence does.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.maps.services.set(index, record)?;
        self.places.insert(key, index);
        Ok(())
    }

    /// Points a record to another table, in one store.
    pub fn set_table(&mut self, key: Key, table: Table) -> Result<()> {
        let Some(&index) = self.places.get(&key) else { bail!("{key:?} is not in the table") };
        let Some(mut record) = self.maps.services.get(index) else { bail!("no place {index}") };
        record.table = table.0;
        // All other words are written as they were.
        self.maps.services.set(index, record)
    }

    /// Removes a record; its place rests until [`Self::rested`].
    pub fn remove(&mut self, key: Key) -> Result<()> {
        let Some(index) = self.places.remove(&key) else { return Ok(()) };
        let Some(mut record) = self.maps.services.get(index) else { bail!("no place {index}") };
        record.key = KEY_REMOVED;
        self.resting.insert(index);
        self.maps.services.set(index, record)
    }

    /// A grace period has passed since everything in `places` was given up.
    pub fn rested(&mut self, places: &HashSet<u32>) {
        self.resting.retain(|place| !places.contains(place));
    }

    /// Places given up that rest.
    #[must_use]
    pub fn resting(&self) -> HashSet<u32> {
        self.resting.clone()
    }

    /// Refuses keys there would be no place for, beside those that are there.
    pub fn check_room(&self, keys: impl IntoIterator<Item = Key>) -> Result<()> {
        let mut taken = self.resting.clone();
        for key in keys {
            if !self.places.contains_key(&key) {
                taken.insert(self.place_for(key, &taken)?);
            }
        }
        Ok(())
    }

    fn place_for(&self, key: Key, taken: &HashSet<u32>) -> Result<u32> {
        let settings = self.maps.settings;
        let (address, word) = key.words();
        let start = match key.address {
            IpAddr::V4(_) => V4::service_hash(settings.seed, &address, word),
            IpAddr::V6(_) => V6::service_hash(settings.seed, &address, word),
        };
        for probe in 0..SERVICE_PROBES {
            let index = start.wrapping_add(probe) & settings.service_mask;
            let free = self
                .maps
                .services
                .get(index)
                .is_some_and(|record| matches!(record.key, KEY_EMPTY | KEY_REMOVED));
            if free && !taken.contains(&index) {
                return Ok(index);
            }
        }
        bail!("the service table is too crowded near {key:?}: raise `limits.frontends`")
    }
}

impl Key {
    fn words(&self) -> (Address, u32) {
        let (address, family) = match self.address {
            IpAddr::V4(_) => (address(self.address), V4::FAMILY),
            IpAddr::V6(_) => (address(self.address), V6::FAMILY),
        };
        (address, service_key(self.port.to_be(), self.protocol, family))
    }
}

/// An address as the program has it.
#[must_use]
pub fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => bytemuck::cast(v6.octets()),
    }
}
