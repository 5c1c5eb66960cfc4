//! One service in the maps: its backend rows, its Maglev table, its marks and its records.
//!
//! All writes of one service's part of the maps happen here. The order is backend before table,
//! table before record; what is given up goes to [`Discarded`] and may be taken again only after
//! a grace period.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use lb_common::abi::{BACKEND_BLOCK, SPARES, Table, Word};
use lb_common::maglev::{self, Entry};

use crate::dataplane::maps::LiveMaps;
use crate::dataplane::regions::Regions;
use crate::dataplane::services::{Key, ServiceTable};

/// What all services share of the maps.
#[derive(Debug)]
pub struct Arena {
    pub maps: Arc<LiveMaps>,
    pub records: ServiceTable,
    /// Of the table arena, in elements.
    tables: Regions,
    /// Of backend rows, in blocks.
    blocks: Regions,
    /// Of service numbers.
    numbers: Regions,
}

/// Stretches that packets may still use; given back after a grace period.
#[derive(Debug, Default)]
#[must_use]
pub struct Discarded {
    tables: Vec<(u32, u32)>,
    blocks: Vec<(u32, u32)>,
    numbers: Vec<u32>,
}

impl Arena {
    #[must_use]
    pub fn new(maps: Arc<LiveMaps>) -> Self {
        Self {
            records: ServiceTable::new(Arc::clone(&maps)),
            tables: Regions::new(maps.tables.len()),
            blocks: Regions::new(maps.words.len() / BACKEND_BLOCK),
            numbers: Regions::new(maps.spare.len() / (SPARES / 4)),
            maps,
        }
    }

    /// Refuses what would not fit. For each service: its backends, whether it keeps its rows, and
    /// whether it needs a new table. Asks for what is needed before anything is given back.
    pub fn check_room(&self, services: impl Iterator<Item = (usize, bool, bool)>) -> Result<()> {
        let (mut tables, mut blocks, mut numbers) =
            (self.tables.clone(), self.blocks.clone(), self.numbers.clone());
        for (backends, keeps_rows, changes) in services {
            if !keeps_rows {
                blocks.take(blocks_for(backends)?).context(NO_ROWS)?;
                numbers.take(1).context(NO_NUMBERS)?;
            }
            if changes || !keeps_rows {
                let wide = blocks_for(backends)? * BACKEND_BLOCK > 256;
                // The largest `M` a service of this size can have been given.
                let slots = maglev::slots_for(backends);
                tables.take(Table::elements(slots, wide)).context(NO_TABLES)?;
            }
        }
        Ok(())
    }

    /// A grace period has passed since all of it was given up.
    pub fn give_back(&mut self, discarded: Discarded) {
        discarded.tables.into_iter().for_each(|(start, length)| self.tables.give(start, length));
        discarded.blocks.into_iter().for_each(|(start, length)| self.blocks.give(start, length));
        discarded.numbers.into_iter().for_each(|number| self.numbers.give(number, 1));
    }
}

impl Discarded {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.blocks.is_empty() && self.numbers.is_empty()
    }

    pub fn extend(&mut self, other: Self) {
        self.tables.extend(other.tables);
        self.blocks.extend(other.blocks);
        self.numbers.extend(other.numbers);
    }
}

/// A backend as its service's table sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub weight: u16,
    /// Its row, counted from the service's first.
    pub index: u16,
}

/// A service's part of the maps.
#[derive(Debug)]
pub struct ServiceTables {
    pub number: u32,
    mode: u32,
    table: Table,
    /// What the table holds, unpacked.
    slots: Vec<u16>,
    /// Of the arena, in elements.
    region: (u32, u32),
    /// Of backend rows, in blocks.
    blocks: (u32, u32),
    records: Vec<Key>,
    marked: BTreeSet<u32>,
}

impl ServiceTables {
    /// Takes rows and a number for a service of up to `backends` backends, with no table yet.
    pub fn new(arena: &mut Arena, backends: usize, mode: u32) -> Result<Self> {
        let blocks = blocks_for(backends)?;
        let first = arena.blocks.take(blocks).context(NO_ROWS)?;
        let Some(number) = arena.numbers.take(1) else {
            arena.blocks.give(first, blocks);
            bail!(NO_NUMBERS);
        };
        Ok(Self {
            number,
            mode,
            table: Table::new(0, 0, false, false, first),
            slots: Vec::new(),
            region: (0, 0),
            blocks: (first, blocks),
            records: Vec::new(),
            marked: BTreeSet::new(),
        })
    }

    /// Backends it has rows for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        (self.blocks.1 * BACKEND_BLOCK) as usize
    }

    /// The row of a backend.
    #[must_use]
    pub fn row(&self, index: u16) -> u32 {
        self.table.first_row() + u32::from(index)
    }

    /// The word records have now.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table
    }

    /// `M`.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        self.table.slots()
    }

    /// Share of the slots that are this backend's.
    #[must_use]
    pub fn share(&self, index: u16) -> f64 {
        let own = self.slots.iter().filter(|slot| **slot == index).count();
        if self.slots.is_empty() { 0.0 } else { own as f64 / self.slots.len() as f64 }
    }

    /// Slots that are marked.
    #[must_use]
    pub fn marked_slots(&self) -> usize {
        self.marked.len()
    }

    /// Builds the table of these members and swaps it in. With `cover` every slot of the new
    /// table is marked before packets see it, because recorded flows may be alive.
    ///
    /// On error nothing has changed.
    pub fn rebuild(
        &mut self,
        arena: &mut Arena,
        members: &[Member],
        cover: bool,
    ) -> Result<Discarded> {
        let maps = Arc::clone(&arena.maps);
        // `M` is the service's for life: another would move most slots.
        let count = match self.slot_count() {
            0 => maglev::slots_for(members.len()),
            count => count,
        };
        let wide = self.capacity() > 256;
        let entries: Vec<Entry<'_>> = members
            .iter()
            .map(|m| Entry { name: &m.name, weight: m.weight, index: m.index })
            .collect();
        let slots = maglev::build(&entries, count, maps.settings.seed);
        ensure!(slots.len() == count as usize, "a service needs a backend");
        let elements = Table::elements(count, wide);
        let base = arena.tables.take(elements).context(NO_TABLES)?;
        let table = Table::new(base, count, wide, cover, self.blocks.0);
        for (at, word) in pack(&slots, wide).into_iter().enumerate() {
            maps.tables.set(base + at as u32, word)?;
        }
        self.marked = if cover { (0..count).collect() } else { BTreeSet::new() };
        write_marks(&maps, table, &self.marked)?;
        self.slots = slots;
        self.point_records(arena, table)?;
        let old = std::mem::replace(&mut self.region, (base, elements));
        let tables = if old.1 == 0 { Vec::new() } else { vec![old] };
        Ok(Discarded { tables, ..Discarded::default() })
    }

    /// Makes the service's frontends these: new ones appear, others go.
    pub fn listen(&mut self, arena: &mut Arena, keys: &[Key]) -> Result<()> {
        for key in self.records.clone() {
            if !keys.contains(&key) {
                arena.records.remove(key)?;
                self.records.retain(|k| *k != key);
            }
        }
        for &key in keys {
            arena.records.put(key, self.number, self.mode, self.table)?;
            if !self.records.contains(&key) {
                self.records.push(key);
            }
        }
        Ok(())
    }

    /// Writes a backend's word: one store.
    pub fn set_word(&self, maps: &LiveMaps, index: u16, word: Word) -> Result<()> {
        maps.words.set(self.row(index), word.0)
    }

    /// The generation a new owner of this row must have.
    #[must_use]
    pub fn next_generation(&self, maps: &LiveMaps, index: u16) -> u32 {
        let last = Word(maps.words.get(self.row(index)).unwrap_or_default());
        (last.generation() + 1) % Word::GENERATIONS
    }

    /// Lists the backends that take what the bounded walk could not place.
    pub fn set_spares(&self, maps: &LiveMaps, serving: &[u16]) -> Result<()> {
        let place = |at: u32| {
            let count = serving.len().max(1);
            serving.get(at as usize % count).copied().unwrap_or_default()
        };
        for element in 0..SPARES / 4 {
            let word =
                (0..4).fold(0u64, |word, i| word | u64::from(place(element * 4 + i)) << (i * 16));
            maps.spare.set(self.number * (SPARES / 4) + element, word)?;
        }
        Ok(())
    }

    /// Marks every slot whose home is one of these backends, before their words change.
    pub fn mark_homes(&mut self, arena: &mut Arena, homes: &[u16]) -> Result<()> {
        let slots = self.slots.iter().enumerate();
        let theirs = slots.filter(|(_, index)| homes.contains(index)).map(|(slot, _)| slot as u32);
        self.marked.extend(theirs.collect::<Vec<_>>());
        write_marks(&arena.maps, self.table, &self.marked)?;
        self.point_records(arena, self.table.with_marked(!self.marked.is_empty()))
    }

    /// Leaves marked only these slots, of those that were.
    pub fn keep_marks(&mut self, arena: &mut Arena, needed: &BTreeSet<u32>) -> Result<()> {
        if self.marked.is_empty() {
            return Ok(());
        }
        self.marked.retain(|slot| needed.contains(slot));
        write_marks(&arena.maps, self.table, &self.marked)?;
        self.point_records(arena, self.table.with_marked(!self.marked.is_empty()))
    }

    /// Takes the service out of the maps.
    pub fn remove(mut self, arena: &mut Arena) -> Result<Discarded> {
        self.listen(arena, &[])?;
        let tables = if self.region.1 == 0 { Vec::new() } else { vec![self.region] };
        Ok(Discarded { tables, blocks: vec![self.blocks], numbers: vec![self.number] })
    }

    fn point_records(&mut self, arena: &mut Arena, table: Table) -> Result<()> {
        if table == self.table {
            return Ok(());
        }
        self.table = table;
        self.records.iter().try_for_each(|key| arena.records.set_table(*key, table))
    }
}

const NO_ROWS: &str = "no backend rows left: raise `limits.backends` (a service takes twice its \
                       backends, in blocks of 16) and restart";
const NO_NUMBERS: &str = "no service numbers left: raise `limits.frontends` and restart";
const NO_TABLES: &str = "no room for another Maglev table (a change needs the old and the new at \
                         once): raise `limits.table_bytes` and restart";

/// Blocks of rows of a service: room to double before it must be remade.
fn blocks_for(backends: usize) -> Result<u32> {
    Ok(u32::try_from(backends * 2)?.div_ceil(BACKEND_BLOCK).max(1))
}

/// Packs slots as the program reads them.
fn pack(slots: &[u16], wide: bool) -> Vec<u64> {
    let (per_element, bits) = if wide { (4, 16) } else { (8, 8) };
    slots
        .chunks(per_element)
        .map(|chunk| chunk.iter().rev().fold(0u64, |word, slot| word << bits | u64::from(*slot)))
        .collect()
}

fn write_marks(maps: &LiveMaps, table: Table, marked: &BTreeSet<u32>) -> Result<()> {
    let mut words = std::collections::BTreeMap::new();
    for slot in (0..table.slots()).step_by(64).chain([table.slots().saturating_sub(1)]) {
        words.insert(table.mark_at(slot).0, 0u64);
    }
    for &slot in marked {
        let (element, bit) = table.mark_at(slot);
        *words.entry(element).or_default() |= 1 << bit;
    }
    words.into_iter().try_for_each(|(element, word)| maps.marks.set(element, word))
}
