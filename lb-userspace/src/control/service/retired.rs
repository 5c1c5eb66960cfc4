//! Backends that left the configuration: their rows rest until nothing points to them.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Result;
use lb_common::abi::{ServerIdKey, Word};

use super::Running;
use crate::config::model::{Mode, ServerId};
use crate::control::admission::Phase;
use crate::control::backend::Backend;
use crate::control::rules::{Rule, keep};
use crate::control::tables::{Arena, Discarded};

/// A backend that left the configuration; its row rests until nothing points to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retired {
    pub(super) index: u16,
    pub(super) mode: Mode,
    pub(super) server: u32,
    /// What its QUIC connections name it by.
    pub(super) server_id: Option<ServerId>,
    /// Its word, without new flows.
    pub(super) word: Word,
    /// Since when nothing leads to it but recorded flows; `None` while it is some slot's
    /// previous owner.
    pub(super) since: Option<Instant>,
    /// Packets sent to it, as a sweep saw them, and when more came at last: datagrams that name
    /// their server are not recorded.
    pub(super) sent: (u64, Instant),
}

impl Running {
    /// Retires a backend that is in no table any more. Its connections may finish: those that are
    /// recorded, and for as long as it is some slot's previous owner, those that are not.
    pub fn retire(&mut self, arena: &mut Arena, gone: &Backend, now: Instant) -> Result<()> {
        let phase = gone.admission.phase();
        let is_shadow = self.tables.is_shadow(gone.index);
        let keeps = is_shadow && matches!(phase, Phase::Serving | Phase::Draining);
        let admit_old = if keeps { Word::FULL } else { 0 };
        let serving = phase != Phase::Down;
        // One that was returning stays unsettled: who still sees the old table finds no marks there.
        let admit = if phase == Phase::Returning { gone.level.max(1) } else { 0 };
        let word = Word::new(admit, admit_old, gone.server, gone.generation, serving, true);
        self.tables.set_word(&arena.maps, gone.index, word)?;
        let since = (!is_shadow).then_some(now);
        let (index, mode, server) = (gone.index, gone.mode, gone.server);
        self.leaving.retain(|(leaving, _)| *leaving != index);
        let server_id = gone.config.server_id;
        let sent = (self.rows_counted(&arena.maps, index).packets, now);
        self.retired.push(Retired { index, mode, server, server_id, word, since, sent });
        self.epoch += 1;
        Ok(())
    }

    /// Retired backends that no slot leads to any more keep what is recorded, and nothing else.
    pub(super) fn settle_retired(&mut self, arena: &Arena, now: Instant) -> Result<()> {
        for retired in &mut self.retired {
            if retired.since.is_none() && !self.tables.is_shadow(retired.index) {
                let w = retired.word;
                retired.word = Word::new(0, 0, w.server(), w.generation(), w.serving(), true);
                retired.since = Some(now);
                self.tables.set_word(&arena.maps, retired.index, retired.word)?;
            }
        }
        Ok(())
    }

    /// Frees the rows of retired backends, and former rows, that nothing points to any more, by a
    /// sweep of NAT connections that began at `nat_as_of`, by its own of recorded flows, and where
    /// datagrams name their server, by what was sent.
    pub fn free_retired(
        &mut self,
        arena: &mut Arena,
        nat: &HashMap<u32, u64>,
        nat_as_of: Instant,
    ) -> Result<Discarded> {
        let flows_as_of = self.flows_as_of;
        let named: Vec<u64> = self
            .retired
            .iter()
            .map(|retired| self.rows_counted(&arena.maps, retired.index).packets)
            .collect();
        for (retired, packets) in self.retired.iter_mut().zip(named) {
            if retired.sent.0 != packets {
                retired.sent = (packets, nat_as_of);
            }
        }
        let quiet = self.config.idle_timeout.max(self.config.udp_timeout);
        let in_use = |row: u32| nat.contains_key(&row) || self.flows.contains_key(&row);
        let tables = &self.tables;
        let before = self.retired.len();
        self.retired.retain(|retired| {
            let as_of = if retired.mode == Mode::Nat { Some(nat_as_of) } else { flows_as_of };
            let seen = as_of.zip(retired.since).is_some_and(|(as_of, since)| as_of > since);
            let is_named = retired.server_id.is_some()
                && nat_as_of <= retired.sent.1 + quiet
                && keep(Rule::NamedRests);
            let rests = !seen || is_named || tables.rows(retired.index).any(in_use);
            rests && (keep(Rule::RowRests) || tables.is_shadow(retired.index))
        });
        let is_fewer = self.retired.len() < before;
        // Marks are of slots, so they hold for former rows as well.
        let no_doubt = !self.exceptions;
        let no_doubt = no_doubt && self.grown_at.is_none_or(|grown| nat_as_of > grown);
        let discarded = if no_doubt { self.tables.shed(in_use) } else { Discarded::default() };
        if is_fewer {
            self.describe(arena)?;
        }
        Ok(discarded)
    }

    /// The rows that QUIC server ids lead to: of backends, and of those that left, whose
    /// connections may finish.
    pub fn server_ids(&self) -> Vec<(ServerIdKey, u32)> {
        let past = self.retired.iter().map(|r| (r.server_id, r.index));
        let running = self.backends.iter().map(|b| (b.config.server_id, b.index));
        let key = |id: ServerId| {
            let mut bytes = [0; 8];
            bytes.iter_mut().zip(id.as_bytes()).for_each(|(to, from)| *to = *from);
            ServerIdKey { service: self.tables.number, padding: 0, id: u64::from_ne_bytes(bytes) }
        };
        // Later ones win: an id that was given to another backend is that one's.
        past.chain(running)
            .filter_map(|(id, index)| Some((key(id?), self.tables.row(index))))
            .collect()
    }

    /// Whether backends that left still hold something.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Servers that its retired backends still hold.
    pub fn retired_servers(&self) -> impl Iterator<Item = u32> {
        self.retired.iter().map(|retired| retired.server)
    }
}
