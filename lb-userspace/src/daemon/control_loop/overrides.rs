//! What the operator wants for a while: freezes and blocks, until they end.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{ControlLoop, FAR, failed, far_away};
use crate::config;
use crate::control::blocks::check_harmless;
use crate::control::clock::epoch_ms;
use crate::control::handle::{Actor, BlockChange};
use crate::control::status::milliseconds;
use crate::report::{Block, Changed, Error, ErrorKind, Freeze, long_age};

impl ControlLoop {
    pub(super) fn freeze(&mut self, freeze: Freeze) -> Result<Changed, Error> {
        if let Some(service) = &freeze.service {
            config::find_service(&self.state.config, service)?;
        }
        let what = frozen_words(freeze.service.as_deref());
        let change = format!("{what}: frozen for {}", long_age(freeze.until_ms - freeze.since_ms));
        tracing::info!(actor = freeze.actor, reason = freeze.reason, %change, "health");
        self.state.freezes.add(freeze);
        let mut changed = Changed { changes: vec![change], ..self.unchanged() };
        self.freezes_changed(&mut changed)?;
        Ok(changed)
    }

    pub(super) fn thaw(&mut self, service: Option<&str>, actor: &str) -> Result<Changed, Error> {
        if let Some(service) = service {
            config::find_service(&self.state.config, service)?;
        }
        let mut changed = self.unchanged();
        for freeze in self.state.freezes.remove(service) {
            let change = format!("{}: thawed", frozen_words(freeze.service.as_deref()));
            tracing::info!(%actor, %change, "health");
            changed.changes.push(change);
        }
        if let Some(service) = service.filter(|service| self.state.freezes.of(service).is_some()) {
            changed.warnings.push(format!("{service} is frozen still, as all services are"));
        }
        self.freezes_changed(&mut changed)?;
        Ok(changed)
    }

    fn freezes_changed(&mut self, changed: &mut Changed) -> Result<(), Error> {
        self.set_frozen().map_err(|error| failed(ErrorKind::Internal, &error))?;
        self.save(changed);
        Ok(())
    }

    pub(super) fn set_frozen(&mut self) -> Result<()> {
        let freezes = &self.state.freezes;
        self.node.set_frozen(|service| freezes.of(service).is_some())
    }

    pub(super) async fn change_blocks(
        &mut self,
        change: BlockChange,
        actor: &Actor,
    ) -> Result<Changed, Error> {
        let mut blocks = self.state.blocks.clone();
        let now = epoch_ms();
        let mut changed = self.unchanged();
        let done = match change {
            BlockChange::Add { prefix, reason, lasts, local } => {
                if let Some(local) = local {
                    check_harmless(prefix, &self.backends(), &local)?;
                }
                let until_ms = lasts.map(|time| now.saturating_add(milliseconds(time)));
                let actor = actor.clone();
                let new = Block { prefix, reason, actor, since_ms: now, until_ms };
                blocks.add(new).then(|| format!("{prefix}: blocked"))
            }
            BlockChange::Remove { prefix } => {
                if let Some(around) = blocks.around(prefix) {
                    let wider = around.prefix;
                    changed.warnings.push(format!("{prefix} is blocked still, as part of {wider}"));
                }
                blocks.remove(prefix).then(|| format!("{prefix}: no longer blocked"))
            }
        };
        let Some(change) = done else { return Ok(changed) };
        let mut state = self.state.clone();
        state.blocks = blocks;
        self.widen(&state).await?;
        self.node
            .set_blocked(state.blocks.prefixes())
            .map_err(|error| failed(ErrorKind::Refused, &error))?;
        self.state = state;
        self.save(&mut changed);
        tracing::info!(%actor, %change, "block list");
        changed.changes.push(change);
        Ok(changed)
    }

    fn backends(&self) -> Vec<(String, IpAddr)> {
        let all =
            self.node.services.iter().flat_map(|r| r.config.backends.iter().map(move |b| (r, b)));
        all.filter(|(_, backend)| backend.is_placed())
            .map(|(r, b)| (format!("{}/{}", r.config.name, b.name), b.address))
            .collect()
    }

    /// When a block or a freeze ends by itself; an hour at most.
    pub(super) fn next_end(&self) -> Instant {
        let ends = self.state.blocks.next_end().into_iter().chain(self.state.freezes.next_end());
        let ends = ends.min();
        let left = ends.map(|end| Duration::from_millis(end.saturating_sub(epoch_ms())));
        left.map_or_else(far_away, |left| far_away().min(Instant::now() + left.min(FAR)))
    }

    pub(super) fn end_what_is_over(&mut self) -> Result<()> {
        self.follow_clock();
        let thawed = self.state.freezes.expire(epoch_ms());
        for freeze in &thawed {
            let what = frozen_words(freeze.service.as_deref());
            tracing::info!(%what, "health acts again: the time of its freeze ended");
        }
        if !thawed.is_empty() {
            self.set_frozen()?;
            self.store.write(&self.state)?;
        }
        self.end_blocks()
    }

    fn end_blocks(&mut self) -> Result<()> {
        let mut blocks = self.state.blocks.clone();
        let ended = blocks.expire(epoch_ms());
        if ended.is_empty() {
            return Ok(());
        }
        // First of all, or a failure would be tried again at once, without end.
        self.state.blocks = blocks;
        self.node.set_blocked(self.state.blocks.prefixes())?;
        for block in ended {
            tracing::info!(prefix = %block.prefix, "no longer blocked: its time ended");
        }
        self.store.write(&self.state)
    }
}

/// What a freeze is on.
fn frozen_words(service: Option<&str>) -> String {
    service.map_or("all services".into(), |service| format!("service {service}"))
}
