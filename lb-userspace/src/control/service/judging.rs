//! What probes and operator say of a service's backends, and the words that follow from it.

use std::time::Instant;

use anyhow::Result;
use lb_common::abi::Word;

use super::Running;
use crate::config::model::Mode;
use crate::control::admission::{Phase, Want};
use crate::control::governor::{Kept, Seen};
use crate::control::health::HealthState;
use crate::control::rules::{Rule, keep};
use crate::control::tables::Arena;

impl Running {
    /// Takes what probes and operator now say of a backend, and writes its word if that changes
    /// what it takes; those of others where it does for them. Whether its own changed.
    pub fn steer(&mut self, arena: &mut Arena, at: usize, now: Instant) -> Result<bool> {
        let Some(backend) = self.backends.get_mut(at) else { return Ok(false) };
        backend.is_new &= backend.health.state != HealthState::Up;
        let seen = backend.look(now);
        let before = backend.seen.replace(seen);
        if !self.around.is_frozen
            && let Some(before) = before
            && let Some(ruling) = self.governor.rule_on(&before, &seen, now)
        {
            backend.ruling = ruling;
            return self.step(arena, at, now);
        }
        let phase = backend.admission.phase();
        self.judge(arena, now)?;
        Ok(self.backends.get(at).is_some_and(|backend| backend.admission.phase() != phase))
    }

    /// Has the governor rule on all backends, and writes the words of those for which it makes a
    /// difference: first of those that come, then of those that go.
    pub fn judge(&mut self, arena: &mut Arena, now: Instant) -> Result<()> {
        let seen: Vec<Seen> = self.backends.iter().map(|backend| backend.look(now)).collect();
        let was = (self.governor.panic_since().is_some(), self.governor.uses_backups());
        let rulings = self.governor.rule(&seen, self.around, now);
        self.rulings += 1;
        self.tell_of_governor(was);
        for ((backend, seen), ruling) in self.backends.iter_mut().zip(seen).zip(rulings) {
            backend.seen = Some(seen);
            if backend.ruling.kept != ruling.kept {
                tell_of_kept(&self.config.name, &backend.config.name, ruling.kept);
            }
            backend.ruling = ruling;
        }
        let blind = self.backends.iter().filter_map(|b| b.blind_until).filter(|at| *at > now);
        let rulings = self.backends.iter().map(|backend| backend.ruling);
        self.rule_at = self.governor.next(rulings).into_iter().chain(blind).min();
        for comes in [true, false] {
            for at in 0..self.backends.len() {
                let want = self.backends[at].want(self.config.failover.on_down);
                if (want == Some(Want::Serve)) == comes {
                    self.step(arena, at, now)?;
                }
            }
        }
        Ok(())
    }

    fn tell_of_governor(&self, (was_panic, had_backups): (bool, bool)) {
        let service = &self.config.name;
        let counts = self.governor.last_counts();
        let (failing, most, of) = (counts.failing, counts.most, counts.counted);
        match (was_panic, self.governor.panic_since().is_some()) {
            (false, true) => tracing::error!(
                %service, failing, most, of,
                "PANIC: more backends fail than may be out; the service fails open"
            ),
            (true, false) => tracing::info!(%service, failing, most, of, "panic is over"),
            _ => {}
        }
        match (had_backups, self.governor.uses_backups()) {
            (false, true) => tracing::warn!(%service, "too few are well: backups serve"),
            (true, false) => tracing::info!(%service, "enough are well: backups go into reserve"),
            _ => {}
        }
    }

    /// Keeps all as it is, or no longer, whatever probes find.
    pub fn freeze(&mut self, arena: &mut Arena, is_frozen: bool, now: Instant) -> Result<()> {
        self.around.is_frozen = is_frozen;
        self.judge(arena, now)
    }

    /// The prober passed its test of itself.
    pub fn tested(&mut self, arena: &mut Arena, at: Instant) -> Result<()> {
        self.around.tested_at = Some(at);
        self.judge(arena, at)
    }

    /// Whether health is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.around.is_frozen
    }

    /// Takes the step that a backend's ruling asks for, if it is not taken. Whether it was now.
    fn step(&mut self, arena: &mut Arena, at: usize, now: Instant) -> Result<bool> {
        let Some(backend) = self.backends.get_mut(at) else { return Ok(false) };
        let Some(want) = backend.want(self.config.failover.on_down) else { return Ok(false) };
        let Some(step) = backend.admission.towards(want, now) else { return Ok(false) };
        self.census.note(&step);
        if step.from == Phase::Down && backend.mode != Mode::Nat && keep(Rule::DeadIsVoid) {
            // What was recorded to it stays void: the flows have moved. Not when it fails: a packet
            // that was under way then may record what it read before, with the word of after.
            backend.generation = (backend.generation + 1) % Word::GENERATIONS;
        }
        // Before the levels of those that return, which are words, too.
        self.announce(arena)?;
        self.pace(arena, now)?;
        self.write_step(arena, at, step.cover)?;
        Ok(true)
    }
}

fn tell_of_kept(service: &str, backend: &str, kept: Option<Kept>) {
    match kept {
        Some(kept) => tracing::warn!(service, backend, why = %kept, "fails, and is kept"),
        None => tracing::info!(service, backend, "no longer kept against its probes"),
    }
}
