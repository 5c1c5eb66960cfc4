//! A hash map of the kernel, or a longest-match one, by its file descriptor: look-up, delete, and
//! reading all of it in batches, which aya does not offer.

use std::hash::Hash;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use aya_obj::generated::{BPF_NOEXIST, bpf_cmd};
use bytemuck::Pod;

use super::bpf::{bpf, zeroed};
#[cfg(test)]
use super::memory::Table;

/// A `BPF_MAP_TYPE_HASH`, `…_LRU_HASH` or `…_LPM_TRIE` of `K` → `V`.
#[derive(Debug)]
pub struct Entries<K, V> {
    map: Map<K, V>,
    room: u32,
}

/// Where the entries are: in the kernel, or in a test's memory.
#[derive(Debug)]
enum Map<K, V> {
    Kernel(OwnedFd, PhantomData<fn() -> (K, V)>),
    #[cfg(test)]
    Memory(Table<K, V>),
}

/// Entries read by one system call.
const BATCH: u32 = 4096;

impl<K: Pod + Eq + Hash, V: Pod> Entries<K, V> {
    /// Takes a map of `room` entries whose keys and values are known to be `K` and `V`.
    #[must_use]
    pub fn new(map: OwnedFd, room: u32) -> Self {
        Self { map: Map::Kernel(map, PhantomData), room }
    }

    /// A map in memory.
    #[cfg(test)]
    pub(crate) fn in_memory(room: u32, evicts: bool) -> Self {
        Self { map: Map::Memory(Table::new(room as usize, evicts)), room }
    }

    /// The map in memory that this is.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> &Table<K, V> {
        match &self.map {
            Map::Memory(table) => table,
            Map::Kernel(..) => panic!("a kernel's map"),
        }
    }

    /// Entries it can hold.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.room
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        #[cfg(test)]
        if let Map::Memory(table) = &self.map {
            return Ok(table.get(key));
        }
        let mut value = V::zeroed();
        match self.element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, key, &mut value, 0) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error).context("cannot look an entry up in a BPF map"),
        }
    }

    /// Writes an entry.
    pub fn set(&self, key: &K, mut value: V) -> Result<()> {
        #[cfg(test)]
        if let Map::Memory(table) = &self.map {
            anyhow::ensure!(table.set(key, value), "no room");
            return Ok(());
        }
        self.element(bpf_cmd::BPF_MAP_UPDATE_ELEM, key, &mut value, 0)
            .context("cannot write an entry of a BPF map")
    }

    /// Makes an entry. Whether it did: no other's is overwritten.
    pub fn add(&self, key: &K, mut value: V) -> Result<bool> {
        #[cfg(test)]
        if let Map::Memory(table) = &self.map {
            let is_new = table.get(key).is_none();
            anyhow::ensure!(!is_new || table.set(key, value), "no room");
            return Ok(is_new);
        }
        let flags = u64::from(BPF_NOEXIST);
        match self.element(bpf_cmd::BPF_MAP_UPDATE_ELEM, key, &mut value, flags) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error).context("cannot make an entry of a BPF map"),
        }
    }

    /// Deletes an entry; one that is gone already is as good.
    pub fn remove(&self, key: &K) -> Result<()> {
        #[cfg(test)]
        if let Map::Memory(table) = &self.map {
            table.remove(key);
            return Ok(());
        }
        let mut none = V::zeroed();
        match self.element(bpf_cmd::BPF_MAP_DELETE_ELEM, key, &mut none, 0) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(error).context("cannot delete an entry of a BPF map")
            }
            _ => Ok(()),
        }
    }

    /// Calls `each` with every entry. Entries made meanwhile may be missed, none is seen twice
    /// that stays in its bucket.
    pub fn for_each(&self, mut each: impl FnMut(&K, &V)) -> Result<()> {
        #[cfg(test)]
        if let Map::Memory(table) = &self.map {
            table.for_each(&mut each);
            return Ok(());
        }
        let mut keys = vec![K::zeroed(); BATCH as usize];
        let mut values = vec![V::zeroed(); BATCH as usize];
        // The cursor is opaque and at most as large as a key, but at least four bytes.
        let mut cursor = [0u64; 8];
        let mut first = true;
        let mut room = BATCH;
        loop {
            let mut attr = zeroed();
            attr.batch.map_fd = self.descriptor() as u32;
            let cursor_at = cursor.as_mut_ptr() as u64;
            let done;
            // SAFETY: the buffers hold `room` keys and values and outlive the call; the kernel
            // writes at most `count` of each and leaves in `count` how many.
            unsafe {
                attr.batch.in_batch = if first { 0 } else { cursor_at };
                attr.batch.out_batch = cursor_at;
                attr.batch.keys = keys.as_mut_ptr() as u64;
                attr.batch.values = values.as_mut_ptr() as u64;
                attr.batch.count = room;
                done = match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
                    Ok(_) => false,
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                    // A bucket holds more entries than there was room for.
                    Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                        room *= 2;
                        keys.resize(room as usize, K::zeroed());
                        values.resize(room as usize, V::zeroed());
                        continue;
                    }
                    Err(error) => return Err(error).context("cannot read a BPF map in batches"),
                };
                let count = attr.batch.count as usize;
                keys.iter().zip(&values).take(count).for_each(|(key, value)| each(key, value));
            }
            if done {
                return Ok(());
            }
            first = false;
        }
    }

    fn descriptor(&self) -> RawFd {
        match &self.map {
            Map::Kernel(map, _) => map.as_raw_fd(),
            #[cfg(test)]
            Map::Memory(_) => -1,
        }
    }

    fn element(&self, command: bpf_cmd, key: &K, value: &mut V, flags: u64) -> io::Result<()> {
        let mut attr = zeroed();
        // SAFETY: the variant used by these commands; the kernel reads one key and reads or
        // writes one value of the sizes the map was made with, which are `K`'s and `V`'s.
        unsafe {
            attr.__bindgen_anon_2.map_fd = self.descriptor() as u32;
            attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
            attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_mut(value) as u64;
            attr.__bindgen_anon_2.flags = flags;
            if matches!(command, bpf_cmd::BPF_MAP_DELETE_ELEM) {
                attr.__bindgen_anon_2.__bindgen_anon_1.value = 0;
            }
            bpf(command, &mut attr).map(drop)
        }
    }
}
