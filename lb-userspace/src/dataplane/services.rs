//! Writes the service table: an open-addressing table whose readers never stop.
//!
//! A record appears by its key word, written last, and goes by it, written first. A place that
//! was given up is taken again only after a grace period, as a reader may still hold it.
//!
//! [`ServiceTable::sync`] leads from the records that are there to those that shall be, in an
//! order in which every packet gets its old answer, then its new one, and nothing else; where
//! the two are the same it never gets another:
//!
//! 1. **Lengths** of port blocks that are new are noted at their addresses: the program looks for
//!    blocks that are not there yet.
//! 2. **What appears or changes**, the most specific first: addresses before prefixes, longer
//!    prefixes before shorter ones, small blocks of ports before large ones. A packet's new
//!    record comes before everything that it would hide. A prefix itself appears in one store,
//!    after all its records and before those of the prefixes around it.
//! 3. **What is not wanted any more** goes after a grace period, as a packet that looked before
//!    step 2 for what appeared there must still find what was. The least specific goes first, so
//!    that nothing it hid shows up in between: of a prefix the records one by one, but if all of
//!    it goes, first the prefix in one store, and its records after another grace period.
//! 4. **Lengths** that no record has any more are taken back, then.
//!
//! Only records of a service that is gone do not wait, since what they point to will be taken
//! anew: its packets may for a moment be nobody's, or another's that it hid.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use lb_common::abi::{
    ADDRESS_NAT, AddressKey, KEY_EMPTY, KEY_REMOVED, SERVICE_PROBES, ServiceRecord, Settings, Table,
};
use lb_common::ip::{Ip, V4, V6};

pub use super::keys::{Key, Wanted, address, family, prefix_key};
use super::maps::LiveMaps;
use crate::config::model::Prefix;

/// Where the records lie: the program's maps, or a test's.
pub trait Places {
    fn settings(&self) -> Settings;
    fn record(&self, index: u32) -> Option<ServiceRecord>;
    fn set_record(&self, index: u32, record: ServiceRecord) -> Result<()>;
    /// Prefixes there is room for.
    fn prefix_room(&self) -> u32;
    fn set_prefix(&self, key: &AddressKey, length: u32) -> Result<()>;
    fn remove_prefix(&self, key: &AddressKey) -> Result<()>;
}

/// The daemon's side of the service table.
#[derive(Debug)]
pub struct ServiceTable<P = Arc<LiveMaps>> {
    maps: P,
    /// Every record there is, and its place.
    records: BTreeMap<Key, (u32, ServiceRecord)>,
    /// The keys of each service's records.
    of_service: HashMap<u32, BTreeSet<Key>>,
    prefixes: BTreeSet<Prefix>,
    /// `ports` of addresses, to be written when nothing leaves any more.
    lengths: BTreeMap<Key, u32>,
    /// Not wanted any more, but packets may be on their way to them; and whether a grace period
    /// has begun since.
    leaving: BTreeMap<Key, bool>,
    /// Given up, and not yet through a grace period.
    resting: HashSet<u32>,
}

impl<P: Places> ServiceTable<P> {
    #[must_use]
    pub fn new(maps: P) -> Self {
        Self {
            maps,
            records: BTreeMap::new(),
            of_service: HashMap::new(),
            prefixes: BTreeSet::new(),
            lengths: BTreeMap::new(),
            leaving: BTreeMap::new(),
            resting: HashSet::new(),
        }
    }

    /// Makes the table hold just this, beside the addresses of NAT; the module says how.
    ///
    /// An error leaves it somewhere on the way; syncing what was there before leads back.
    pub fn sync(&mut self, wanted: &Wanted) -> Result<()> {
        let mut order: Vec<Key> = wanted.records.keys().copied().collect();
        order.sort_by_key(Key::rank);
        self.open_lengths(wanted)?;
        let mut level: Option<Prefix> = None;
        for key in order {
            if let Some(vip) = level.filter(|vip| *vip != key.vip) {
                self.show_prefix(vip, wanted)?;
            }
            level = Some(key.vip);
            if let Some(record) = wanted.records.get(&key) {
                self.leaving.remove(&key);
                if !key.is_alone() {
                    self.put(key, *record)?;
                }
            }
        }
        if let Some(vip) = level {
            self.show_prefix(vip, wanted)?;
        }
        self.lengths = alone(wanted).map(|(key, record)| (*key, record.ports)).collect();
        let services: HashSet<u32> = wanted
            .records
            .iter()
            .filter(|(key, _)| !key.is_alone())
            .map(|(_, record)| record.service)
            .collect();
        let mut unwanted: Vec<Key> = self
            .records
            .iter()
            .filter(|(key, (_, record))| {
                let only_nat = key.is_alone() && record.flags == ADDRESS_NAT;
                !wanted.records.contains_key(key) && !only_nat
            })
            .map(|(key, _)| *key)
            .collect();
        unwanted.sort_by_key(|key| Reverse(key.rank()));
        for key in unwanted {
            let lives =
                |record: &ServiceRecord| key.is_alone() || services.contains(&record.service);
            if self.records.get(&key).is_some_and(|(_, record)| lives(record)) {
                self.leaving.entry(key).or_insert(false);
            } else {
                self.leaving.remove(&key);
                self.remove(key)?;
            }
        }
        self.close_lengths()
    }

    /// Makes a record, or changes it in place, word by word. Of `template` all counts but key and
    /// address.
    pub fn put(&mut self, key: Key, template: ServiceRecord) -> Result<()> {
        let (address, word) = key.words();
        let record = ServiceRecord { key: word, address, ..template };
        match self.records.get(&key) {
            Some((_, old)) if *old == record => return Ok(()),
            Some(&(index, old)) => {
                self.maps.set_record(index, record)?;
                self.disown(key, old.service);
                self.records.insert(key, (index, record));
            }
            None => {
                let index = self.place_for(key, &self.resting)?;
                self.maps.set_record(index, ServiceRecord { key: KEY_REMOVED, ..record })?;
                // Packets find the record from here on, and all of it: x86 and the volatile
                // writes keep the order of stores; elsewhere the fence does.
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                self.maps.set_record(index, record)?;
                self.records.insert(key, (index, record));
            }
        }
        if !key.is_alone() {
            self.of_service.entry(record.service).or_default().insert(key);
        }
        Ok(())
    }

    /// A record is no longer this service's.
    fn disown(&mut self, key: Key, service: u32) {
        if let Some(keys) = self.of_service.get_mut(&service) {
            keys.remove(&key);
            if keys.is_empty() {
                self.of_service.remove(&service);
            }
        }
    }

    /// Changes all records of a service in place, those that leave included. What changes must
    /// lie in one aligned word of 8 bytes, or may be seen in parts.
    pub fn update(&mut self, service: u32, change: impl Fn(&mut ServiceRecord)) -> Result<()> {
        for key in self.of_service.get(&service).into_iter().flatten() {
            let Some((index, known)) = self.records.get_mut(key) else { continue };
            if known.table == 0 {
                continue;
            }
            let mut record = *known;
            change(&mut record);
            if record != *known {
                self.maps.set_record(*index, record)?;
                *known = record;
            }
        }
        Ok(())
    }

    /// Points all records of a service to another table, each in one store.
    pub fn point(&mut self, service: u32, table: Table) -> Result<()> {
        self.update(service, |record| record.table = table.0)
    }

    /// Says from which addresses NAT may get replies: these, and no others.
    pub fn set_nat_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<()> {
        let wanted: BTreeSet<Key> =
            addresses.iter().map(|address| Key::alone(Prefix::host(*address))).collect();
        let known: Vec<(Key, ServiceRecord)> = self
            .records
            .iter()
            .filter(|(key, _)| key.is_alone())
            .map(|(key, (_, record))| (*key, *record))
            .collect();
        for (key, record) in known {
            let flags = record.flags & !ADDRESS_NAT;
            if wanted.contains(&key) || record.flags == flags {
                continue;
            }
            if flags == 0 {
                self.erase(key)?;
            } else {
                self.put(key, ServiceRecord { flags, ..record })?;
            }
        }
        for key in wanted {
            let none: ServiceRecord = bytemuck::Zeroable::zeroed();
            let record = self.records.get(&key).map_or(none, |(_, record)| *record);
            self.put(key, ServiceRecord { flags: record.flags | ADDRESS_NAT, ..record })?;
        }
        Ok(())
    }

    /// A grace period has passed since [`Self::resting`] gave these places: what left goes.
    pub fn rested(&mut self, places: &HashSet<u32>) -> Result<()> {
        self.resting.retain(|place| !places.contains(place));
        let mut gone: Vec<Key> =
            self.leaving.iter().filter(|(_, waited)| **waited).map(|(key, _)| *key).collect();
        gone.sort_by_key(|key| Reverse(key.rank()));
        let hidden: BTreeSet<Prefix> = gone
            .iter()
            .filter(|key| key.is_alone() && self.prefixes.contains(&key.vip))
            .map(|key| key.vip)
            .collect();
        for key in gone {
            if !hidden.contains(&key.vip) {
                self.leaving.remove(&key);
                self.remove(key)?;
            } else if self.prefixes.remove(&key.vip) {
                self.maps.remove_prefix(&prefix_key(0, key.vip))?;
            }
        }
        // Packets may have found the prefix just before it went.
        let waits = self.leaving.iter_mut().filter(|(key, _)| hidden.contains(&key.vip));
        waits.for_each(|(_, waited)| *waited = false);
        self.close_lengths()
    }

    /// Places that wait for a grace period: those given up, and those of records that leave.
    pub fn resting(&mut self) -> HashSet<u32> {
        self.leaving.values_mut().for_each(|waited| *waited = true);
        let leaving = self.leaving.keys().filter_map(|key| Some(self.records.get(key)?.0));
        leaving.chain(self.resting.iter().copied()).collect()
    }

    /// Refuses what there would be no place for, beside all that is there. Counts every record:
    /// a range of ports takes up to [`super::frontends::MOST_BLOCKS`].
    pub fn check_room(
        &self,
        keys: impl IntoIterator<Item = Key>,
        prefixes: &BTreeSet<Prefix>,
    ) -> Result<()> {
        let mut taken = self.resting.clone();
        for key in keys {
            if !self.records.contains_key(&key) {
                taken.insert(self.place_for(key, &taken)?);
            }
        }
        let (count, room) = (self.prefixes.union(prefixes).count(), self.maps.prefix_room());
        ensure!(
            count <= room as usize,
            "{count} prefixes (a change needs room for the old and the new), but room for {room}: \
             raise `limits.prefixes` and restart"
        );
        Ok(())
    }

    /// Step 1: addresses and prefixes that are there with all lengths, the new ones and the old.
    fn open_lengths(&mut self, wanted: &Wanted) -> Result<()> {
        for (key, record) in alone(wanted) {
            let old = self.records.get(key).map(|(_, record)| *record);
            let (flags, ports) = old.map_or((0, 0), |old| (old.flags, old.ports));
            let flags = record.flags | flags & ADDRESS_NAT;
            self.put(*key, ServiceRecord { flags, ports: record.ports | ports, ..*record })?;
        }
        Ok(())
    }

    /// Step 4, for addresses of which nothing leaves.
    fn close_lengths(&mut self) -> Result<()> {
        let leaving: BTreeSet<Prefix> = self.leaving.keys().map(|key| key.vip).collect();
        let lengths = std::mem::take(&mut self.lengths);
        let (later, now) = lengths.into_iter().partition(|(key, _)| leaving.contains(&key.vip));
        self.lengths = later;
        for (key, ports) in now as BTreeMap<Key, u32> {
            if let Some((_, record)) = self.records.get(&key) {
                let record = *record;
                self.put(key, ServiceRecord { ports, ..record })?;
            }
        }
        Ok(())
    }

    /// All records of a prefix are there: from here on packets find it.
    fn show_prefix(&mut self, vip: Prefix, wanted: &Wanted) -> Result<()> {
        if wanted.prefixes.contains(&vip) && !self.prefixes.contains(&vip) {
            self.maps.set_prefix(&prefix_key(0, vip), u32::from(vip.length))?;
            self.prefixes.insert(vip);
        }
        Ok(())
    }

    /// Removes a record, unless NAT has the address still.
    fn remove(&mut self, key: Key) -> Result<()> {
        match self.records.get(&key) {
            Some((_, record)) if key.is_alone() && record.flags & ADDRESS_NAT != 0 => {
                let record = ServiceRecord { flags: ADDRESS_NAT, ports: 0, ..*record };
                self.put(key, record)
            }
            _ => self.erase(key),
        }
    }

    /// Removes a record; its place rests until [`Self::rested`].
    fn erase(&mut self, key: Key) -> Result<()> {
        let Some((index, record)) = self.records.remove(&key) else { return Ok(()) };
        self.disown(key, record.service);
        self.resting.insert(index);
        self.maps.set_record(index, ServiceRecord { key: KEY_REMOVED, ..record })
    }

    fn place_for(&self, key: Key, taken: &HashSet<u32>) -> Result<u32> {
        let settings = self.maps.settings();
        let (address, word) = key.words();
        let start = if key.vip.is_ipv4() {
            V4::service_hash(&address, word)
        } else {
            V6::service_hash(&address, word)
        };
        for probe in 0..SERVICE_PROBES {
            let index = start.wrapping_add(probe) & settings.service_mask;
            let free = self
                .maps
                .record(index)
                .is_some_and(|record| matches!(record.key, KEY_EMPTY | KEY_REMOVED));
            if free && !taken.contains(&index) {
                return Ok(index);
            }
        }
        bail!(
            "the service table is too crowded near {}: raise `limits.frontends` (a range of ports \
             takes up to {} records)",
            key.vip,
            super::frontends::MOST_BLOCKS
        )
    }
}

/// The records of addresses alone.
fn alone(wanted: &Wanted) -> impl Iterator<Item = (&Key, &ServiceRecord)> {
    wanted.records.iter().filter(|(key, _)| key.is_alone())
}

impl Places for Arc<LiveMaps> {
    fn settings(&self) -> Settings {
        LiveMaps::settings(self)
    }

    fn record(&self, index: u32) -> Option<ServiceRecord> {
        self.services.get(index)
    }

    fn set_record(&self, index: u32, record: ServiceRecord) -> Result<()> {
        self.services.set(index, record)
    }

    fn prefix_room(&self) -> u32 {
        self.prefixes.room()
    }

    fn set_prefix(&self, key: &AddressKey, length: u32) -> Result<()> {
        LiveMaps::add_prefix(self, key, length)
    }

    fn remove_prefix(&self, key: &AddressKey) -> Result<()> {
        LiveMaps::remove_prefix(self, key)
    }
}

#[cfg(test)]
mod tests;
