//! One service in the maps: its backend rows, its Maglev table with its shadow, its marks and its
//! records.
//!
//! All writes of one service's part of the maps happen here. The order is backend before table,
//! table before record; what is given up goes to [`Discarded`] and may be taken again only after
//! a grace period.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytemuck::Zeroable;
use lb_common::abi::{BACKEND_BLOCK, LINE, SPARES, ServiceRecord, Table, Word};
use lb_common::maglev::{self, Entry};

use super::builds::Builds;
use super::rules::{Rule, keep};
use super::shadows::Shadows;
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::object::SPARE_ROWS;
use crate::dataplane::regions::Regions;
use crate::dataplane::services::ServiceTable;

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
    builds: Builds,
    /// `M` for so many backends; tests make small tables.
    pub(super) slots_for: fn(usize) -> u32,
}

/// What a service needs of the arena that it does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    blocks: u32,
    elements: u32,
    shadow: u32,
    is_new: bool,
}

impl Need {
    /// Of a service that is not there yet.
    pub fn of_new(backends: usize) -> Result<Self> {
        let blocks = blocks_for(backends)?;
        let wide = blocks * BACKEND_BLOCK > NARROW;
        let elements = table_elements(maglev::slots_for(backends), wide);
        Ok(Self { blocks, elements, shadow: 0, is_new: true })
    }
}

/// Rows of a service whose indices fit a slot of 8 bits: whole blocks, and all ones is "none".
const NARROW: u32 = 240;

/// Arena elements of a table: its slots, and a line whose first element is the shadow's word.
fn table_elements(slots: u32, wide: bool) -> u32 {
    Table::elements(slots, wide) + LINE
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
            builds: Builds::default(),
            slots_for: maglev::slots_for,
            maps,
        }
    }

    /// Refuses what would not fit, asking for all that is new before anything is given back.
    pub fn check_room(&self, needs: &[Need]) -> Result<()> {
        let (mut tables, mut blocks, mut numbers) =
            (self.tables.clone(), self.blocks.clone(), self.numbers.clone());
        for need in needs {
            if need.blocks > 0 {
                blocks.take(need.blocks).context(NO_ROWS)?;
            }
            if need.is_new {
                numbers.take(1).context(NO_NUMBERS)?;
            }
            for elements in [need.elements, need.shadow] {
                if elements > 0 {
                    tables.take(elements).context(NO_TABLES)?;
                }
            }
        }
        Ok(())
    }

    /// Backend rows from 0 that may have been used: all blocks up to the last one taken.
    #[must_use]
    pub fn rows_used(&self) -> u32 {
        self.blocks.highest_taken(self.maps.words.len() / BACKEND_BLOCK) * BACKEND_BLOCK
    }

    /// A configuration is in place: no more tables are built for a while.
    pub fn applied(&mut self) {
        self.builds.forget();
    }

    /// A grace period has passed since all of it was given up.
    pub fn give_back(&mut self, discarded: Discarded) {
        discarded.tables.into_iter().for_each(|(start, length)| self.tables.give(start, length));
        discarded.blocks.into_iter().for_each(|(start, length)| self.blocks.give(start, length));
        discarded.numbers.into_iter().for_each(|number| self.numbers.give(number, 1));
    }
}

impl Discarded {
    /// Stretches of the table arena; those of no length are none.
    fn tables(stretches: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let tables = stretches.into_iter().filter(|(_, length)| *length > 0).collect();
        Self { tables, ..Self::default() }
    }

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

/// A service's part of the maps.
#[derive(Debug)]
pub struct ServiceTables {
    pub number: u32,
    /// What its records hold beside key and table.
    template: ServiceRecord,
    table: Table,
    /// Slots of each index.
    owned: Vec<u32>,
    /// Of the arena, in elements.
    region: (u32, u32),
    /// Of the shadow, as `region`.
    shadow_region: (u32, u32),
    shadows: Shadows,
    /// Of backend rows, in blocks.
    blocks: (u32, u32),
    /// Blocks it had before it grew: recorded flows may point there, so words are written to
    /// both.
    former: Vec<(u32, u32)>,
    /// Slots whose flows may be recorded to go elsewhere (`LOOK`).
    looks: BTreeSet<u32>,
    /// Packets look at marks, though there may be none yet: some backend is unsettled.
    watched: bool,
    /// As the arena's.
    slots_for: fn(usize) -> u32,
}

impl ServiceTables {
    /// Takes rows and a number for a service of up to `backends` backends, with no table yet.
    pub fn new(arena: &mut Arena, backends: usize) -> Result<Self> {
        let blocks = blocks_for(backends)?;
        let first = arena.blocks.take(blocks).context(NO_ROWS)?;
        let Some(number) = arena.numbers.take(1) else {
            arena.blocks.give(first, blocks);
            bail!(NO_NUMBERS);
        };
        Ok(Self {
            number,
            template: ServiceRecord { service: number, ..ServiceRecord::zeroed() },
            table: Table::new(0, 0, false, false, first),
            owned: Vec::new(),
            region: (0, 0),
            shadow_region: (0, 0),
            shadows: Shadows::default(),
            blocks: (first, blocks),
            former: Vec::new(),
            looks: BTreeSet::new(),
            watched: false,
            slots_for: arena.slots_for,
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
        self.blocks.0 * BACKEND_BLOCK + u32::from(index)
    }

    /// All rows of a backend, those it had before the service grew included.
    pub fn rows(&self, index: u16) -> impl Iterator<Item = u32> {
        let place = u32::from(index);
        let former = self.former.iter().filter(move |(_, blocks)| place < blocks * BACKEND_BLOCK);
        former.map(move |(first, _)| first * BACKEND_BLOCK + place).chain([self.row(index)])
    }

    /// Every row the service holds.
    pub fn all_rows(&self) -> impl Iterator<Item = u32> {
        self.stretches().flatten()
    }

    /// The same, by where they begin and end.
    pub fn stretches(&self) -> impl Iterator<Item = Range<u32>> {
        self.former.iter().chain([&self.blocks]).map(rows_in)
    }

    /// Whether it took rows that its table does not know yet.
    #[must_use]
    pub fn is_outgrown(&self) -> bool {
        self.table.first_row() != self.row(0)
    }

    /// What [`Self::grow`] and [`Self::rebuild`] will need for so many backends.
    pub fn need(&self, backends: usize, rebuild: bool) -> Result<Need> {
        let grows = backends > self.capacity();
        let blocks = if grows { blocks_for(backends)? } else { self.blocks.1 };
        let wide = blocks * BACKEND_BLOCK > NARROW;
        let count = self.slot_count().max((self.slots_for)(backends));
        let is_rebuilt = rebuild || grows;
        Ok(Need {
            blocks: if grows { blocks } else { 0 },
            elements: if is_rebuilt { table_elements(count, wide) } else { 0 },
            shadow: if is_rebuilt { Table::elements(count, wide) } else { 0 },
            is_new: false,
        })
    }

    /// Takes rows for so many backends, with the words and ports that are there. The table must
    /// be rebuilt for packets to use them.
    pub fn grow(&mut self, arena: &mut Arena, backends: usize) -> Result<()> {
        let blocks = blocks_for(backends)?;
        let first = arena.blocks.take(blocks).context(NO_ROWS)?;
        let maps = &arena.maps;
        for (from, to) in rows_in(&self.blocks).zip(rows_in(&(first, blocks))) {
            maps.words.set(to, maps.words.get(from).unwrap_or_default())?;
            maps.ports.set(to, maps.ports.get(from).unwrap_or_default())?;
        }
        self.former.push(std::mem::replace(&mut self.blocks, (first, blocks)));
        Ok(())
    }

    /// Gives up former rows that nothing points to any more.
    pub fn shed(&mut self, in_use: impl Fn(u32) -> bool) -> Discarded {
        let (former, blocks) =
            self.former.drain(..).partition(|stretch| rows_in(stretch).any(&in_use));
        self.former = former;
        Discarded { blocks, ..Discarded::default() }
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
        let own = self.owned.get(usize::from(index)).copied().unwrap_or_default();
        f64::from(own) / f64::from(self.slot_count().max(1))
    }

    /// Slots that are marked, and slots that have a shadow.
    #[must_use]
    pub fn marked_slots(&self) -> (u32, u32) {
        let shadowed = self.shadows.slots(self.slot_count()).len();
        (self.looks.len() as u32, shadowed as u32)
    }

    /// What the table holds, as the arena has it.
    fn slots(&self, maps: &LiveMaps) -> Vec<u16> {
        let (per_element, bits) = packing(self.table.wide());
        let mask = (1 << bits) - 1;
        let elements =
            self.table.base()..self.table.base() + self.slot_count().div_ceil(per_element);
        let words = elements.map(|element| maps.tables.get(element).unwrap_or_default());
        let slots = words.flat_map(|word| (0..per_element).map(move |at| word >> (at * bits)));
        slots.take(self.slot_count() as usize).map(|slot| (slot & mask) as u16).collect()
    }

    /// Builds the table of these members, indices counted from the service's first row, and swaps it
    /// in with its shadow: one store. Slots that
    /// changed are in transition from now on, but for those whose owner has no connections to
    /// keep (`has_flows`).
    ///
    /// Where `walked_past`, flows may be recorded that went past such an owner to another: its
    /// slots are marked, as the next owner would end their walk.
    ///
    /// On error nothing has changed.
    pub fn rebuild(
        &mut self,
        arena: &mut Arena,
        members: &[Entry<'_>],
        has_flows: impl Fn(u16) -> bool,
        walked_past: bool,
        now: Instant,
    ) -> Result<Discarded> {
        let maps = Arc::clone(&arena.maps);
        // `M` only ever grows: another one puts most slots in transition.
        let count = self.slot_count().max((self.slots_for)(members.len()));
        let wide = self.blocks.1 * BACKEND_BLOCK > NARROW;
        let slots = arena.builds.build(members, count, maps.settings().seed);
        ensure!(slots.len() == count as usize, "a service needs a backend");
        let mut shadows = self.shadows.clone();
        let mut unshadowed = Vec::new();
        let before = self.slots(&maps);
        if !before.is_empty() {
            shadows.change(&before, &slots, &has_flows, now);
            if walked_past && before.len() == slots.len() {
                let owners = (0..).zip(before.iter().zip(&*slots));
                let left = owners.filter(|(_, (old, new))| old != new && !has_flows(**old));
                unshadowed = left.map(|(slot, _)| slot).collect();
            } else if walked_past {
                unshadowed = (0..count).collect();
            }
        }
        let elements = table_elements(count, wide);
        let base = arena.tables.take(elements).context(NO_TABLES)?;
        let shadow_region = match write_shadow(arena, &shadows, count, wide, self.blocks.0) {
            Ok(region) => region,
            Err(error) => {
                arena.tables.give(base, elements);
                return Err(error);
            }
        };
        let table = Table::new(base, count, wide, false, self.blocks.0);
        for (at, word) in pack(&slots, wide).into_iter().enumerate() {
            maps.tables.set(base + at as u32, word)?;
        }
        if let Some((_, word)) = shadow_region {
            maps.tables.set(table.shadow_at(), word.0)?;
        }
        self.looks.extend(unshadowed);
        if count as usize != before.len() && !self.looks.is_empty() {
            // Which slots the recorded flows have now is not known before the next sweep.
            self.looks = (0..count).collect();
        }
        self.owned = vec![0; self.capacity()];
        for slot in &*slots {
            if let Some(count) = self.owned.get_mut(usize::from(*slot)) {
                *count += 1;
            }
        }
        self.shadows = shadows;
        let table = table.with_shadowed(shadow_region.is_some());
        let table = self.write_marks(&maps, table)?;
        if !keep(Rule::ShadowWithTable) {
            self.point_records(arena, table.with_shadowed(false))?;
        }
        self.point_records(arena, table)?;
        let old = std::mem::replace(&mut self.region, (base, elements));
        let new_shadow = shadow_region.map_or((0, 0), |(region, _)| region);
        let old_shadow = std::mem::replace(&mut self.shadow_region, new_shadow);
        Ok(Discarded::tables([old, old_shadow]))
    }

    /// Ends shadows that have lasted for `idle`. Their slots are marked first, as are those whose
    /// home is one of these backends, which turn flows away: these may have been recorded on
    /// their way past. Whether anything ended.
    pub fn end_shadows(
        &mut self,
        arena: &mut Arena,
        away: &[u16],
        idle: Duration,
        now: Instant,
    ) -> Result<Option<Discarded>> {
        if self.shadows.ends_at(idle).is_none_or(|at| now < at) {
            return Ok(None);
        }
        let count = self.slot_count();
        let mut left = self.shadows.clone();
        let ended = left.expire(now, idle).unwrap_or_else(|| (0..count).collect());
        let wide = self.table.wide();
        let region = write_shadow(arena, &left, count, wide, self.blocks.0)?;
        if keep(Rule::MarkFirst) {
            self.looks.extend(ended);
        }
        self.mark_homes(arena, away)?;
        // Only now: who still sees the shadow records its flows, who does not finds the marks.
        if let Some((_, word)) = region {
            arena.maps.tables.set(self.table.shadow_at(), word.0)?;
        } else {
            self.point_records(arena, self.table.with_shadowed(false))?;
        }
        self.shadows = left;
        let new = region.map_or((0, 0), |(region, _)| region);
        let old = std::mem::replace(&mut self.shadow_region, new);
        Ok(Some(Discarded::tables([old])))
    }

    /// When [`Self::end_shadows`] next has something to do.
    #[must_use]
    pub fn shadows_end_at(&self, idle: Duration) -> Option<Instant> {
        self.shadows.ends_at(idle)
    }

    /// Whether some slots have previous owners.
    #[must_use]
    pub fn has_shadows(&self) -> bool {
        !self.shadows.is_empty()
    }

    /// Whether a backend is some slot's previous owner.
    #[must_use]
    pub fn is_shadow(&self, index: u16) -> bool {
        self.shadows.hold(index)
    }

    /// All backends that are some slot's previous owner.
    #[must_use]
    pub fn shadow_owners(&self) -> HashSet<u16> {
        self.shadows.owners()
    }

    /// Sets what records hold beside key and table: `SERVICE_*` bits and what belongs to them.
    pub fn describe(&mut self, arena: &mut Arena, template: ServiceRecord) -> Result<()> {
        self.template = ServiceRecord { service: self.number, ..template };
        let template = self.template;
        arena.records.update(self.number, |record| {
            let ServiceRecord { key, address, table, .. } = *record;
            *record = ServiceRecord { key, address, table, ..template };
        })
    }

    /// What its records hold beside their keys.
    #[must_use]
    pub fn record(&self) -> ServiceRecord {
        ServiceRecord { table: self.table.0, ..self.template }
    }

    /// Writes a backend's word: one store for each of its rows.
    pub fn set_word(&self, maps: &LiveMaps, index: u16, word: Word) -> Result<()> {
        self.rows(index).try_for_each(|row| maps.words.set(row, word.0))
    }

    /// Writes a backend's port; `None` is the frontend's own.
    pub fn set_port(&self, maps: &LiveMaps, index: u16, port: Option<u16>) -> Result<()> {
        let port = u64::from(port.unwrap_or_default().to_be());
        self.rows(index).try_for_each(|row| maps.ports.set(row, port))
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

    /// Says whether some backend is unsettled, before it is. A packet reads the word that tells it
    /// to look at marks before any admission word, so it must know before there are marks: whoever
    /// has an entry began after this.
    pub fn watch(&mut self, arena: &mut Arena, unsettled: bool) -> Result<()> {
        self.watched = unsettled;
        if !unsettled || self.table.marked() || !keep(Rule::WatchFirst) {
            return Ok(());
        }
        self.point_records(arena, self.table.with_marked(true))
    }

    /// Marks every slot whose home is one of these backends, before their words change.
    pub fn mark_homes(&mut self, arena: &mut Arena, homes: &[u16]) -> Result<()> {
        let slots = (0..).zip(self.slots(&arena.maps));
        let theirs = slots.filter(|(_, index)| homes.contains(index)).map(|(slot, _)| slot);
        if keep(Rule::MarkFirst) {
            self.looks.extend(theirs);
        }
        let table = self.write_marks(&arena.maps, self.table)?;
        self.point_records(arena, table)
    }

    /// Leaves marked only these slots, of those that were.
    pub fn keep_marks(&mut self, arena: &mut Arena, needed: &BTreeSet<u32>) -> Result<()> {
        if self.looks.is_empty() && (self.watched || !self.table.marked()) {
            return Ok(());
        }
        self.looks.retain(|slot| needed.contains(slot));
        let table = self.write_marks(&arena.maps, self.table)?;
        self.point_records(arena, table)
    }

    /// Takes the service out of the maps. Its records have gone already.
    pub fn remove(self, arena: &mut Arena) -> Result<Discarded> {
        // What is recorded to its backends is void from now on.
        for row in self.all_rows() {
            let old = Word(arena.maps.words.get(row).unwrap_or_default());
            arena.maps.words.set(row, Word::new(0, 0, 0, old.generation(), false, true).0)?;
        }
        let blocks = self.former.into_iter().chain([self.blocks]).collect();
        let tables = Discarded::tables([self.region, self.shadow_region]);
        Ok(Discarded { blocks, numbers: vec![self.number], ..tables })
    }

    /// Writes the marks of a table: of slots to look up, and of slots in transition. The table,
    /// with the word that says whether there are any.
    fn write_marks(&self, maps: &LiveMaps, table: Table) -> Result<Table> {
        let mut words = std::collections::BTreeMap::new();
        for slot in (0..table.slots()).step_by(64).chain([table.slots().saturating_sub(1)]) {
            words.insert(table.mark_at(slot).0, 0u64);
        }
        let shadowed = self.shadows.slots(table.slots());
        let mut any = false;
        for slot in self.looks.iter().copied().chain(shadowed) {
            let (element, bit) = table.mark_at(slot);
            *words.entry(element).or_default() |= 1 << bit;
            any = true;
        }
        words.into_iter().try_for_each(|(element, word)| maps.marks.set(element, word))?;
        Ok(table.with_marked(any || self.watched))
    }

    fn point_records(&mut self, arena: &mut Arena, table: Table) -> Result<()> {
        if table == self.table {
            return Ok(());
        }
        self.table = table;
        // What was marked or written before is seen by whoever sees the new word.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        arena.records.point(self.number, table)
    }
}

const NO_ROWS: &str = "no backend rows left: raise `limits.backends` (a service takes twice its \
                       backends, but no more than 32 beyond them, in blocks of 16) and restart";
const NO_NUMBERS: &str = "no service numbers left: raise `limits.frontends` and restart";
const NO_TABLES: &str = "no room for another Maglev table (a change needs the old and the new at \
                         once): raise `limits.table_bytes` and restart";

/// Blocks of rows of a service: room to double, or for [`SPARE_ROWS`] more, before it must be remade.
fn blocks_for(backends: usize) -> Result<u32> {
    let rows = backends + backends.min(SPARE_ROWS as usize);
    Ok(u32::try_from(rows)?.div_ceil(BACKEND_BLOCK).max(1))
}

/// The rows of a stretch of blocks.
fn rows_in((first, count): &(u32, u32)) -> Range<u32> {
    first * BACKEND_BLOCK..(first + count) * BACKEND_BLOCK
}

/// Slots of an arena element, and bits of each.
const fn packing(wide: bool) -> (u32, u32) {
    if wide { (4, 16) } else { (8, 8) }
}

/// Packs slots as the program reads them.
fn pack(slots: &[u16], wide: bool) -> Vec<u64> {
    let (per_element, bits) = packing(wide);
    slots
        .chunks(per_element as usize)
        .map(|chunk| chunk.iter().rev().fold(0u64, |word, slot| word << bits | u64::from(*slot)))
        .collect()
}

/// Writes a shadow to a region of its own, if there is any: the region, and its table word.
fn write_shadow(
    arena: &mut Arena,
    shadows: &Shadows,
    count: u32,
    wide: bool,
    block: u32,
) -> Result<Option<((u32, u32), Table)>> {
    if shadows.is_empty() {
        return Ok(None);
    }
    let none = if wide { u16::MAX } else { u16::from(u8::MAX) };
    let slots = shadows.published(count, none);
    let elements = Table::elements(slots.len() as u32, wide);
    let base = arena.tables.take(elements).context(NO_TABLES)?;
    for (at, word) in pack(&slots, wide).into_iter().enumerate() {
        arena.maps.tables.set(base + at as u32, word)?;
    }
    let table = Table::new(base, slots.len() as u32, wide, false, block);
    Ok(Some(((base, elements), table)))
}

#[cfg(test)]
mod tests {
    use lb_common::abi::Settings;

    use super::*;

    /// Of a backend in `nat` that took nothing new flows went on to others, in a service that was
    /// in another mode before. When it leaves, its slots' next owner would end their walk.
    #[test]
    fn slots_without_a_shadow_are_marked_where_flows_walked_past() {
        // Backends after the change, whether flows walked past, whether slots are marked: those
        // of the second backend, or all.
        let rows = [(1, false, 0.0), (1, true, 0.5), (9, false, 0.0), (9, true, 1.0)];
        for (backends, walked_past, marked) in rows {
            let settings = Settings { service_mask: 255, backend_rows: 256, ..Settings::zeroed() };
            let maps = Arc::new(LiveMaps::in_memory(settings, 16, 16).unwrap());
            let mut arena = Arena::new(maps);
            arena.slots_for = |backends| if backends < 9 { 1021 } else { 1531 };
            let mut tables = ServiceTables::new(&mut arena, 9).unwrap();
            let names: Vec<String> = (0..9).map(|index| format!("b{index}")).collect();
            let members = |count: u16| -> Vec<Entry<'_>> {
                let named = (0..count).zip(&names);
                named.map(|(index, name)| Entry { name, weight: 1, index }).collect()
            };
            for (count, walked_past) in [(2, false), (backends, walked_past)] {
                let now = Instant::now();
                let nobody_has = |_| false;
                let _ = tables
                    .rebuild(&mut arena, &members(count), nobody_has, walked_past, now)
                    .unwrap();
            }
            let (looks, shadowed) = tables.marked_slots();
            let share = f64::from(looks) / f64::from(tables.slot_count());
            assert!((share - marked).abs() < 0.01, "{backends} {walked_past}: {share}");
            assert_eq!((shadowed, tables.table().marked()), (0, looks > 0), "{walked_past}");
        }
    }
}
